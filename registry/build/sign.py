"""Sign the registry that ships, after its artifacts were made anew: `python -m conceptguard_registry.build.sign`.

The private keys are in no repository. They are looked for where CONCEPTGUARD_KEYS says, by default in the user's
configuration folder (`conceptguard sign --help`). Who has none begins a root of their own with `--new-root NAME`: it is
written into this copy of the program, which trusts what it comes with.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from conceptguard.errors import ConceptGuardError
from conceptguard.registry.signed.keys import keys_folder
from conceptguard.registry.signed.packaged import PINNED, open_packaged
from conceptguard.registry.signed.publish import Signed, init, sign

HOME = Path(__file__).resolve().parents[1]
# What is installed is not refreshed, so that this says little; see `packaged`.
DAYS = {"root": 3650, "targets": 3650, "snapshot": 3650, "timestamp": 3650}


def begin(folder: Path, keys: Path, owner: str, pinned: Path = PINNED) -> Signed:
    """A new root, with new keys, in place of the one that was there."""
    old = folder / "metadata"
    aside = folder / ".metadata-before"
    if old.is_dir():
        old.rename(aside)
    try:
        made = init(folder, keys, owner=owner, days=DAYS, consistent=False)
    except BaseException:
        shutil.rmtree(old, ignore_errors=True)
        if aside.is_dir():
            aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copyfile(old / "1.root.json", pinned)
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=Path, default=None, help="folder of private keys")
    parser.add_argument("--new-root", metavar="OWNER", default="", help="make new keys, and trust them alone")
    args = parser.parse_args()
    keys = args.keys or keys_folder()
    try:
        made = begin(HOME, keys, args.new_root) if args.new_root else sign(HOME, [keys])
        view = open_packaged(HOME)
    except ConceptGuardError as cause:
        parser.exit(1, f"{cause}\n")
    if made.missing:
        parser.exit(1, f"keys of {', '.join(made.missing)} are missing in {keys}; or begin anew with --new-root NAME\n")
    print(f"{made.artifacts} artifacts signed by {view.signed_by}; root {made.fingerprint}")


if __name__ == "__main__":
    main()
