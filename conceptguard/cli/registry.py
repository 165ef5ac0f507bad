"""The registry on the command line: show, verify, pull, add, remove, import, export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import printable
from . import show_picture
from .complete import families, models, refs
from .options import split

if TYPE_CHECKING:
    from conceptguard.registry import Artifact

JSON = typer.Option(None, "--json", metavar="FILE", help="Write one JSON object to FILE; - is standard output.")
REF = typer.Argument(..., autocompletion=refs, help="family/method/name, an unmistakable end of it, or a path.")
INTO = typer.Option(None, "--into", metavar="FOLDER", help="Registry folder to write to; default: your own.")
FROM = typer.Option(None, "--from", metavar="FOLDER", help="Registry folder; default: your own.")
FOLDER = typer.Argument(..., help="Folder with an artifact.yaml.")
FILE = typer.Argument(..., help="A safetensors file, or a folder that holds one.")
OUT = typer.Option(..., help="The safetensors file to write; of a text encoder, the folder.")


def register(app: typer.Typer) -> None:
    """Put the commands on the program."""
    app.command("show", short_help="Show one artifact, or what a picture says of its policy.")(show)
    app.command("verify", short_help="Check that artifacts are whole and unaltered.")(verify)
    app.command("pull", short_help="Fetch an artifact, to work offline from then on.")(pull)
    app.command("add", short_help="Copy an artifact into a registry.")(add)
    app.command("remove", short_help="Delete an artifact from a registry.")(remove)
    app.command("import", short_help="Bring a published file into a registry.")(import_)
    app.command("index", short_help="Let a folder of artifacts be served to others.")(index)
    app.command("export", short_help="Write an artifact for other programs.")(export)


def show(ref: str = REF, json: str | None = JSON) -> None:
    """Show one artifact: its concept, how it was made, what was measured, its picture. Of a picture: what it says of
    the policy that it was made under, and whether its content credentials hold.

    \b
    conceptguard show emoji-sd/spm/cigarette
    conceptguard show my-registry/my-sd/uce/trumpet
    conceptguard show picture.png
    """
    from conceptguard.cli.output import result, write_json
    from conceptguard.registry import default_registry

    begin = time.perf_counter()
    if show_picture.is_picture(ref):
        found = show_picture.row(ref)
        if json:
            write_json(result("show", [found], time.perf_counter() - begin), json)
        if json != "-":
            typer.echo("\n".join(show_picture.lines(found)))
        return
    artifact = default_registry().load(ref)
    if json:
        write_json(result("show", [_row(artifact)], time.perf_counter() - begin), json)
    if json != "-":
        typer.echo(card(artifact))


def card(artifact: Artifact) -> str:
    """An artifact as text for people."""
    from conceptguard.files import yaml

    manifest = artifact.manifest
    lines = [artifact.ref, ""]
    facts: dict[str, Any] = {
        "concept": manifest.concept.name,
        "prompts": ", ".join(manifest.concept.prompts),
        "replacement": manifest.concept.replacement,
        "method": manifest.method,
        "base": " ".join(part for part in (manifest.base.family, manifest.base.fingerprint) if part),
        "version": manifest.version,
        "licence": manifest.licence,
        "bytes": f"{artifact.size:,}",
        "folder": str(artifact.folder),
        "picture": str(artifact.picture or ""),
    }
    lines += [f"{key:12} {printable(value)}" for key, value in facts.items() if value]
    for title, part in (("measured", manifest.card), ("gate", manifest.gate), ("made", manifest.made)):
        if part:
            lines += ["", title, *(f"  {line}" for line in yaml.dump(part).rstrip().splitlines())]
    return "\n".join(lines)


def _row(artifact: Artifact) -> dict[str, Any]:
    row = artifact.manifest.model_dump(by_alias=True)
    return {
        "ref": artifact.ref,
        **row,
        "bytes": artifact.size,
        "folder": str(artifact.folder),
        "picture": str(artifact.picture or ""),
    }


def verify(
    ref: str | None = typer.Argument(None, autocompletion=refs, help="One artifact; default: all of them."),
    json: str | None = JSON,
) -> None:
    """Check sizes, hashes, headers and values of artifacts. Exit status 1 when one of them is not good.

    Policies, suites and models of signed registries are checked as well: each file is what was signed, none is missing
    and none more is there.

    \b
    conceptguard verify
    conceptguard verify emoji-sd/spm/cigarette
    conceptguard verify models/emoji-sd
    """
    from conceptguard.cli.output import report
    from conceptguard.registry import default_registry

    begin = time.perf_counter()
    registry = default_registry()
    rows = list(_with_progress(registry.verify_each(ref), 1 if ref else len(registry.entries())))
    bad = sum(not row["ok"] for row in rows)
    report(
        "verify", rows, time.perf_counter() - begin, json, columns=["ref", "source", "ok", "signed", "why"], failed=bad
    )
    if json != "-":
        typer.echo(f"{len(rows) - bad} good, {bad} not", err=True)
    if bad:
        raise typer.Exit(1)


_PATIENCE_SECONDS = 2.0


def _with_progress(rows: Any, total: int) -> Any:
    """The rows as they come; a bar appears once it has taken longer than a person waits without asking."""
    from rich.console import Console
    from rich.progress import Progress

    begin = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=False, auto_refresh=False) as progress:
        task = progress.add_task("verifying", total=total, visible=False)
        for row in rows:
            yield row
            late = time.monotonic() - begin > _PATIENCE_SECONDS
            progress.update(task, advance=1, visible=late, refresh=late)


def pull(ref: str = REF, json: str | None = JSON) -> None:
    """Fetch an artifact into the cache; it works offline from then on.

    \b
    CONCEPTGUARD_REGISTRIES=https://example.org/registry conceptguard pull sd-1/spm/van-gogh

    Registries that are always to be asked stand in the settings file, under `registries`; `conceptguard doctor` says
    where it is. CONCEPTGUARD_CACHE says where fetched files are kept.
    """
    from conceptguard.registry import default_registry

    begin = time.perf_counter()
    _done("pull", default_registry().pull(ref), begin, json)


def add(
    folder: Path = FOLDER,
    into: Path | None = INTO,
    json: str | None = JSON,
) -> None:
    """Copy an artifact into a registry and list it there.

    \b
    conceptguard add my-registry/my-sd/uce/trumpet
    conceptguard add downloads/trumpet --into my-registry
    """
    from conceptguard.registry import default_registry

    begin = time.perf_counter()
    _done("add", default_registry().add(folder, into), begin, json)


def remove(
    ref: str = REF,
    from_: Path | None = FROM,
    json: str | None = JSON,
) -> None:
    """Delete an artifact from a registry that can be written to.

    \b
    conceptguard remove my-sd/uce/trumpet
    conceptguard remove my-sd/uce/trumpet --from my-registry
    """
    from conceptguard.cli.output import report
    from conceptguard.registry import Registry, default_registry

    begin = time.perf_counter()
    registry = Registry([from_]) if from_ else default_registry()
    report(
        "remove", [registry.remove(ref).row()], time.perf_counter() - begin, json, columns=["ref", "source", "bytes"]
    )


def import_(
    file: Path = FILE,
    kind: str = typer.Option(..., "--as", metavar="spm|lora|uce|text_encoder", help="What the file is."),
    concept: str = typer.Option("", help="The concept's name; default: the file's first prompt."),
    prompts: str = typer.Option("", help="Prompts that evoke it, separated by commas; default: the file's."),
    replacement: str = typer.Option("", help="What appears instead."),
    base: str = typer.Option("", autocompletion=families, help="Family of base models, e.g. sd-1."),
    model: str | None = typer.Option(
        None, autocompletion=models, help="Folder or embedded model: layers are checked, the fingerprint kept."
    ),
    name: str = typer.Option("", help="Name in the registry; default: from the concept."),
    licence: str = typer.Option("", help="Licence of the file."),
    into: Path | None = INTO,
    json: str | None = JSON,
) -> None:
    """Bring a published file into a registry, keys and metadata kept.

    \b
    conceptguard import van_gogh_last.safetensors --as spm --base sd-1 --concept "van gogh"
    conceptguard import no-logos.safetensors --as lora --model ./my-sd --concept logo --prompts logo,brand
    """
    from conceptguard.api import import_artifact

    begin = time.perf_counter()
    artifact = import_artifact(
        file, kind, concept=concept, prompts=split(prompts), replacement=replacement, base=base, model=model, name=name,
        licence=licence, into=into,
    )  # fmt: skip
    _done("import", artifact, begin, json)


def index(
    folder: Path = typer.Argument(..., help="A registry folder: what `make --out` or `add --into` wrote to."),
    json: str | None = JSON,
) -> None:
    """Write the index of a registry folder anew, and say how others reach it.

    \b
    conceptguard index my-registry

    Whatever serves files serves a registry: a web server, a bucket, a repository on a hub. Others name its address in
    CONCEPTGUARD_REGISTRIES, or under `registries` in their settings file, and every file is checked by its hash when it
    arrives. A registry of many artifacts gets an index in shards, in a folder `index` that is served as well.
    """
    from conceptguard.cli.output import report
    from conceptguard.errors import RegistryError
    from conceptguard.registry import rebuild_index

    begin = time.perf_counter()
    if not folder.expanduser().is_dir():
        raise RegistryError(f"{folder}: no such folder: give the one that `conceptguard make --out` wrote to")
    rows = [entry.row() for entry in rebuild_index(folder.expanduser())]
    report("index", rows, time.perf_counter() - begin, json, columns=["ref", "bytes"], folder=str(folder))
    if json != "-":
        typer.echo(
            f"{len(rows)} artifacts listed; serve the folder, for a try with\n"
            f"  python -m http.server --directory {folder}\n"
            "and let others set\n  CONCEPTGUARD_REGISTRIES=http://THIS-MACHINE:8000"
        )


def _embedded(registry: Any) -> list[str]:
    return [name for source in registry.sources for name in source.models()]


def export(
    ref: str = REF,
    form: str = typer.Option(..., "--format", metavar="kohya|diffusers|uce|text_encoder|delta", help="Whom it is for."),
    out: Path = OUT,
    model: str | None = typer.Option(
        None, autocompletion=models, help="Folder or embedded model; default: the embedded one of its family."
    ),
    json: str | None = JSON,
) -> None:
    """Write an artifact as a file that other programs load: ComfyUI and web UIs (kohya), diffusers, UCE; of terms
    beside a text encoder, as a text encoder's folder that any pipeline loads in place of its own; of terms beside a
    language model, as what its weights gain, in a file of tensors to be added.

    \b
    conceptguard export emoji-sd/spm/cigarette --format kohya --out cigarette.safetensors
    conceptguard export my-registry/my-sd/few_shot/trumpet --format text_encoder --model ./my-sd --out no-trumpets

    Nothing of a gate is in what other programs load: there an edit acts whatever the prompt says.
    """
    from conceptguard.cli.output import report
    from conceptguard.registry import default_registry
    from conceptguard.registry.exporter import export_artifact

    begin = time.perf_counter()
    registry = default_registry()
    artifact = registry.load(ref)
    family = artifact.manifest.base.family
    folder = _model(model or family) if model or family in _embedded(registry) else None
    how = export_artifact(artifact, form, out.expanduser(), model=folder)
    files = [out.expanduser()] if out.expanduser().is_file() else out.expanduser().rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    row = {"ref": artifact.ref, "format": form, "how": how, "file": str(out), "bytes": size}
    report("export", [row], time.perf_counter() - begin, json)


def _model(text: str) -> Path:
    """The folder of an embedded model, or the folder itself."""
    from conceptguard.registry import default_registry

    path = Path(text).expanduser()
    return path if path.is_dir() else default_registry().model(text)


def _done(command: str, artifact: Artifact, begin: float, json: str | None) -> None:
    from conceptguard.cli.output import report

    row = {"ref": artifact.ref, "bytes": artifact.size, "folder": str(artifact.folder)}
    report(command, [row], time.perf_counter() - begin, json)
