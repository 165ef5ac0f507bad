"""``conceptguard withdraw``: take a concept back from an artifact that was made of several."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from .complete import refs
from .options import CONFIG, DEVICE, JSON, VARIANT


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("withdraw", short_help="Take a concept back from an artifact of several.")(withdraw)


def withdraw(
    ref: str = typer.Argument(..., autocompletion=refs, help="The artifact's folder, or its reference."),
    concepts: list[str] = typer.Argument(..., metavar="CONCEPT...", help="What is no longer to be erased."),
    out: Path | None = typer.Option(
        None, metavar="FOLDER", help="Another registry folder to write to; default: it is replaced where it lies."
    ),
    model: str | None = typer.Option(
        None, metavar="MODEL", help="The model that it was made for; default: the one named like its base."
    ),
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Take concepts back from an artifact that was made of several at once.

    \b
    conceptguard withdraw my-registry/emoji-sd/uce/weapons knife

    It becomes, to the last bit, what `conceptguard make` makes of the others. What was read of these lies beside the
    artifact where it was made, and is not read again; elsewhere it is.
    """
    from .. import plugins
    from ..errors import PolicyError
    from ..making.base import weights_mark
    from ..making.maker import without
    from ..plugins import host_for
    from ..registry import default_registry
    from .loading import either
    from .output import result, write_json

    begin = time.perf_counter()
    artifact = default_registry().load(ref)
    without(artifact, concepts)  # what cannot be withdrawn is said before the model is loaded
    manifest = artifact.manifest
    loaded = either(model or manifest.base.family, device, variant=variant, config=config)
    host = host_for(loaded)
    if manifest.made.get("weights") != weights_mark(host):
        raise PolicyError(
            f"{artifact.ref} was made on other weights than {model or manifest.base.family}: give --model"
        )
    left = plugins.method(manifest.method).withdraw(host, artifact, concepts, out and out.expanduser())
    default_registry().add(left, left.folder.parents[2])  # lists what changed
    seconds = time.perf_counter() - begin
    count = len(left.manifest.made["concepts"])
    if json:
        row = {"method": manifest.method, "ref": left.ref, "folder": str(left.folder), "withdrawn": concepts,
               "concepts": count, "make_seconds": round(seconds, 3), "bytes": left.size}  # fmt: skip
        write_json(result("withdraw", [row], seconds, str(loaded.device)), json)
    if json != "-":
        print(f"{left.ref}: {', '.join(concepts)} withdrawn, {count} concepts left, in {seconds:.1f} s")
