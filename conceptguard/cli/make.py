"""``conceptguard make``: learn or solve an artifact about a concept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from .complete import methods
from .options import DEVICE, JSON, MODEL, SETTINGS, settings_of, split


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("make")(make)


def make(
    method: str = typer.Argument(
        ..., metavar="METHOD", autocompletion=methods, help="A method that makes artifacts, e.g. spm or uce."
    ),
    concept: str = typer.Option(..., metavar="NAME", help="What to erase."),
    out: Path = typer.Option(..., metavar="FOLDER", help="Where to write FAMILY/METHOD/NAME."),
    prompts: str | None = typer.Option(
        None, metavar="A,B", help="Prompts that evoke the concept, separated by commas; default: its name."
    ),
    replacement: str = typer.Option(
        "", metavar="TEXT", help="What should appear instead; default: nothing particular."
    ),
    preserve: str | None = typer.Option(
        None, metavar="A,B|@FILE", help="What must stay, separated by commas, or a file with one per line."
    ),
    model: str = MODEL,
    seed: int = typer.Option(0, help="The same seed gives the same artifact."),
    steps: int | None = typer.Option(None, min=1, help="Training steps; default: the method's own."),
    settings: list[str] | None = SETTINGS,
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Make an artifact: train a membrane, solve an edit, whatever the method does.

    \b
    conceptguard make uce --concept trumpet --prompts trumpet,horn --preserve guitar,violin --out my-registry
    conceptguard make spm --concept pistol --prompts pistol,gun --set rank=1 --steps 300 --out my-registry
    conceptguard make spm --model ./my-sd --concept "van gogh" --preserve @painters.txt --out my-registry
    conceptguard make guard --model authors-lm --concept authors --set forget=forget.jsonl --set retain=retain.jsonl \\
      --out my-registry
    """
    from .. import plugins
    from ..concept import as_concept
    from ..hosts.load import load_model
    from ..making.settings import make_settings
    from ..plugins import host_for
    from .devices import pick_device
    from .output import result, write_json
    from .registry import card

    begin = time.perf_counter()
    chosen = plugins.method(method)
    given = settings_of(settings)
    takes_steps = "steps" in chosen.MakeSettings.model_fields
    # Everything that can be wrong is found before the model is loaded.
    make_settings(chosen, given, **({"steps": steps} if takes_steps or steps else {}))
    what = as_concept({"name": concept, "prompts": split(prompts) or [concept], "replacement": replacement})
    keep = _preserve(preserve)
    pipe = load_model(model).to(pick_device(device))
    options: dict[str, Any] = {**given, "preserve": keep, "seed": seed}
    if steps is not None:
        options["steps"] = steps
    artifact = chosen.make(host_for(pipe), what, out.expanduser(), **options)
    seconds = time.perf_counter() - begin
    if json:
        row = {"method": method, "concept": concept, "model": model, "ref": artifact.ref,
               "folder": str(artifact.folder), "make_seconds": round(seconds, 3), "bytes": artifact.size}  # fmt: skip
        write_json(result("make", [row], seconds, str(pipe.device)), json)
    if json != "-":
        print(card(artifact))
        print(f"\nmade in {seconds:.1f} s; use it: conceptguard generate --policy FILE with "
              f"{{method: {method}, artifact: {artifact.folder}}}")  # fmt: skip


def _preserve(text: str | None) -> list[str]:
    from ..errors import PolicyError

    if not text or not text.startswith("@"):
        return split(text)
    try:
        lines = Path(text[1:]).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"--preserve {text}: cannot be read ({error}): give a text file, one prompt per line"
        ) from None
    return [line.strip() for line in lines if line.strip()]
