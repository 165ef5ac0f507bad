"""Pack the pictures of a registry, losing nothing: `python -m conceptguard_registry.build.pictures`.

A wheel may weigh only so much: run it after cards or examples were written anew, and before signing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import oxipng

from conceptguard.measuring.cards import PICTURE
from conceptguard.registry import open_artifact, rebuild_index
from conceptguard.registry.write import write_files

from .sign import HOME


def pack(root: Path) -> int:
    """How many bytes that saved. Manifests and index are written anew."""
    saved = 0
    for picture in sorted([*root.glob("models/*/*.png"), *root.glob(f"*/*/*/{PICTURE}")]):
        was = picture.read_bytes()
        now = oxipng.optimize_from_memory(was, level=6)
        if len(now) >= len(was):
            continue
        saved += len(was) - len(now)
        if picture.name != PICTURE:
            picture.write_bytes(now)
            continue
        there = open_artifact(picture.parent)
        paths = [file.path for file in there.manifest.files]
        files = {path: now if path == PICTURE else (picture.parent / path).read_bytes() for path in paths}
        write_files(picture.parent, there.manifest.model_dump(by_alias=True, exclude={"files"}), files)
    rebuild_index(root)
    return saved


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=HOME, help="a registry; default: the one that ships")
    print(f"{pack(parser.parse_args().root):,} bytes less")
