"""Signed registries on the command line: sign, registry init, rotate, revoke, trust, distrust."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import JSON

if TYPE_CHECKING:
    from conceptguard.registry.signed.publish import Signed

FOLDER = typer.Argument(..., help="A registry folder: what `make --out` or `add --into` wrote to.")
KEYS = typer.Option(
    None, "--keys", metavar="FOLDER", help="Folder of private keys, several times for several; default: your own keys."
)
OWNER = typer.Option("", metavar="NAME", help="Whose keys these are, as `verify` and receipts will say.")


def register(app: typer.Typer) -> None:
    """Put the commands on the program."""
    app.command("sign", short_help="Sign what a registry folder holds.")(sign)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Sign a registry, and trust one.")
    group.command("init", short_help="Begin to sign a registry.")(init)
    group.command("rotate", short_help="Exchange a key, a stolen one above all.")(rotate)
    group.command("revoke", short_help="Take an artifact back.")(revoke)
    group.command("trust", short_help="Trust the keys of a registry.")(trust)
    group.command("distrust", short_help="Trust the keys of a registry no longer.")(distrust)
    app.add_typer(group, name="registry", short_help="Sign a registry, and trust one.")


def _keys(given: list[Path] | None) -> list[Path]:
    from conceptguard.registry.signed.keys import keys_folder

    return [path.expanduser() for path in given or []] or [keys_folder()]


def sign(folder: Path = FOLDER, keys: list[Path] | None = KEYS, json: str | None = JSON) -> None:
    """Check every artifact of a signed registry, and sign what changed since; in time before the timestamp expires.

    \b
    conceptguard sign my-registry
    conceptguard sign my-registry --keys /media/usb-1 --keys /media/usb-2

    Where a role asks for more keys than are here, what is signed waits, and the same command where the others are adds
    theirs. With the key `online-1.pem` alone, a registry in which nothing changed is kept current.
    """
    from conceptguard.registry.signed.publish import sign

    begin = time.perf_counter()
    _told("sign", folder, sign(folder, _keys(keys), progress=_progress), begin, json)


def init(
    folder: Path = FOLDER,
    keys: Path | None = typer.Option(None, "--keys", metavar="FOLDER", help="Where to write the private keys."),
    owner: str = OWNER,
    root_keys: int = typer.Option(3, help="Keys of the root, which says whose the other keys are."),
    root_threshold: int = typer.Option(2, help="How many of them must sign a change of keys."),
    targets_keys: int = typer.Option(1, help="Keys that sign what artifacts there are."),
    targets_threshold: int = typer.Option(1, help="How many of them must sign."),
    days: str = typer.Option(
        "", metavar="ROLE=N,...", help="For how long signatures count, e.g. timestamp=7,targets=90."
    ),
    in_place: bool = typer.Option(False, help="No copies under names with their hash: for what is not served."),
    bins: int = typer.Option(0, help="Spread what is signed over so many files, for many thousands of artifacts."),
    json: str | None = JSON,
) -> None:
    """Begin to sign a registry: make keys, and sign what is there.

    \b
    conceptguard registry init my-registry --owner "Example Studio"
    conceptguard registry init my-registry --owner Ann --keys /media/usb --days timestamp=7

    Afterwards take the keys apart: two of root-1.pem, root-2.pem, root-3.pem exchange stolen keys and belong to places
    without a network; targets-1.pem signs artifacts; online-1.pem says each week that this is still the newest. Tell
    others the fingerprint by another way than the registry itself.
    """
    from conceptguard.registry.signed.publish import init

    begin = time.perf_counter()
    made = init(
        folder, _keys([keys] if keys else None)[0], owner=owner or folder.resolve().name, root_keys=root_keys,
        root_threshold=root_threshold, targets_keys=targets_keys, targets_threshold=targets_threshold, days=_days(days),
        consistent=not in_place, bins=bins, progress=_progress,
    )  # fmt: skip
    _told("registry init", folder, made, begin, json)


def _days(text: str) -> dict[str, int]:
    from .options import Usage

    found = {}
    for part in filter(None, text.split(",")):
        role, _, number = part.partition("=")
        if not number.strip().isdigit():
            raise Usage(f"--days {text}: write it as timestamp=7,targets=90")
        found[role.strip()] = int(number)
    return found


def rotate(
    folder: Path = FOLDER,
    role: str = typer.Argument(..., metavar="root|targets|online", help="Whose key is exchanged."),
    keys: list[Path] | None = KEYS,
    old: str = typer.Option("", metavar="NAME", help="The key that goes, by its owner or the beginning of its id."),
    owner: str = OWNER,
    public: Path | None = typer.Option(None, metavar="FILE", help="The new public key (PEM); default: one is made."),
    sigstore: str = typer.Option("", metavar="IDENTITY", help="The new key is whoever sigstore knows as this."),
    issuer: str = typer.Option("https://github.com/login/oauth", help="Who vouches for that identity."),
    add: bool = typer.Option(False, help="Take no key out."),
    threshold: int | None = typer.Option(None, help="How many keys of the role must sign from now on."),
    json: str | None = JSON,
) -> None:
    """Exchange a key, a stolen one above all, and sign anew what it had signed.

    \b
    conceptguard registry rotate my-registry targets
    conceptguard registry rotate my-registry root --old "Ann (root 2)" --keys /media/usb-1 --keys /media/usb-3

    Those who trust the registry follow by themselves: the new root is signed by enough of the keys that they know. A
    signature by the old key counts for nothing from the moment on that they have seen it.
    """
    from conceptguard.registry.signed.change import rotate
    from conceptguard.registry.signed.keys import read_public, sigstore_key

    begin = time.perf_counter()
    key = sigstore_key(sigstore, issuer) if sigstore else read_public(public, owner or public.stem) if public else None
    made = rotate(
        folder, role, _keys(keys), old=old, key=key, add=add, threshold=threshold, named=owner, progress=_progress
    )
    _told("registry rotate", folder, made, begin, json)


def revoke(
    folder: Path = FOLDER,
    ref: str = typer.Argument(..., help="The artifact, family/method/name."),
    reason: str = typer.Option("", help="Why it must not be used any more."),
    expires: str = typer.Option("", metavar="DATE", help="Or until when it may be, e.g. 2027-01-31."),
    successor: str = typer.Option("", metavar="REF", help="What to use instead."),
    undo: bool = typer.Option(False, help="Take back what was said of it."),
    keys: list[Path] | None = KEYS,
    json: str | None = JSON,
) -> None:
    """Take an artifact back: a policy that names it stops, and says why and what to use instead.

    \b
    conceptguard registry revoke my-registry sd-1/spm/van-gogh --reason "comes back in Dutch" \\
        --successor sd-1/spm/van-gogh-2

    This very version is meant; a new one under the same name is not. Others learn of it when they next ask the
    registry, and who is offline stops at the latest when its timestamp expires.
    """
    from conceptguard.registry.signed.change import revoke

    begin = time.perf_counter()
    made = revoke(
        folder, ref, _keys(keys), reason=reason, expires=expires, successor=successor, undo=undo, progress=_progress
    )
    _told("registry revoke", folder, made, begin, json)


def _told(command: str, folder: Path, made: Signed, begin: float, json: str | None) -> None:
    from dataclasses import asdict

    from conceptguard.cli.output import result, write_json

    row = {"registry": str(folder), **asdict(made)}
    if json:
        write_json(result(command, [row], time.perf_counter() - begin), json)
    if json != "-":
        if made.missing:
            typer.echo(f"waits for {', '.join(made.missing)}: the same command where those keys are adds theirs")
            return
        ends = ", ".join(f"{role} {when[:10]}" for role, when in made.expires.items())
        typer.echo(
            f"{made.artifacts} artifacts signed in {folder}; anew: {', '.join(made.changed) or 'nothing'}\n"
            f"signatures count until: {ends}\n"
            f"fingerprint {made.fingerprint}"
        )


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    from .registry import _with_progress

    return _with_progress(items, len(items))  # type: ignore[no-any-return]


def trust(
    registry: str = typer.Argument("", help="An address or a folder; without one, all that are trusted are listed."),
    fingerprint: str = typer.Option("", metavar="SHA256", help="What its keeper told you."),
    root: Path | None = typer.Option(None, metavar="FILE", help="Its root.json, where you have it by another way."),
    json: str | None = JSON,
) -> None:
    """Trust the keys of a registry: from then on it must verify, and policies with `trust: signed` take what it has.

    \b
    conceptguard registry trust https://example.org/registry --fingerprint 3f9a...
    conceptguard registry trust

    Without a fingerprint or a file the root is taken as the registry shows it, and printed, for you to compare: whoever
    has the registry at that moment could show another.
    """
    from conceptguard.cli.output import report
    from conceptguard.registry.signed import roots
    from conceptguard.registry.signed.layout import fingerprint as print_of

    begin = time.perf_counter()
    if not registry:
        rows: list[dict[str, Any]] = list(roots.all_trusted())
    else:
        data = _root(registry, root, fingerprint)
        trusted = roots.trust(registry, data)
        rows = [{"address": roots.normal(registry), "fingerprint": print_of(data), **_of_root(trusted)}]
    report("registry trust", rows, time.perf_counter() - begin, json, columns=["address", "fingerprint"])
    if registry and not (root or fingerprint) and json != "-":
        typer.echo("compare the fingerprint with what its keeper says elsewhere", err=True)


def _root(registry: str, file: Path | None, fingerprint: str) -> bytes:
    """The root with this fingerprint, or the newest: later ones are followed from there."""
    from conceptguard.errors import RegistryError
    from conceptguard.files.atomic import read_limited
    from conceptguard.registry.signed.layout import MAX_ROOT
    from conceptguard.registry.signed.layout import fingerprint as print_of

    wanted = fingerprint.strip().lower()
    shown = [read_limited(file.expanduser(), MAX_ROOT)] if file else _shown(registry)
    fitting = [data for data in shown if wanted in ("", print_of(data))]
    if not fitting:
        raise RegistryError(
            f"{registry}: shows no root with that fingerprint, but {', '.join(map(print_of, shown))}: not trusted; ask "
            "its keeper"
        )
    return fitting[-1]


def _shown(registry: str) -> list[bytes]:
    """All roots that a registry shows, from the first on. Raises RegistryError where there is none."""
    from conceptguard.errors import RegistryError
    from conceptguard.files.atomic import read_limited
    from conceptguard.registry.fetch import Unreachable, fetch
    from conceptguard.registry.signed.layout import MAX_ROOT, MAX_ROTATIONS

    found: list[bytes] = []
    for number in range(1, MAX_ROTATIONS):
        name = f"metadata/{number}.root.json"
        try:
            if "://" in registry:
                found.append(fetch(f"{registry.rstrip('/')}/{name}", MAX_ROOT))
            else:
                found.append(read_limited(Path(registry).expanduser() / name, MAX_ROOT))
        except Unreachable:
            raise
        except RegistryError as cause:
            if not found:
                raise RegistryError(f"{registry}: nobody signed it, as far as can be seen ({cause})") from None
            break
    return found


def _of_root(root: Any) -> dict[str, Any]:
    from conceptguard.registry.signed.layout import owner

    return {
        "version": root.version,
        **{role: f"{one.threshold} of {', '.join(owner(root.keys[k]) for k in one.keyids)}"
           for role, one in root.roles.items()},
    }  # fmt: skip


def distrust(registry: str = typer.Argument(..., help="An address or a folder."), json: str | None = JSON) -> None:
    """Trust the keys of a registry no longer: what it has is unsigned from then on.

    \b
    conceptguard registry distrust https://example.org/registry
    """
    from conceptguard.cli.output import report
    from conceptguard.registry.signed import roots

    begin = time.perf_counter()
    roots.distrust(registry)
    report("registry distrust", [{"address": roots.normal(registry)}], time.perf_counter() - begin, json)
