"""``conceptguard make``: learn or solve an artifact about a concept."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import typer

from .complete import methods
from .options import DEVICE, JSON, MODEL, SETTINGS, settings_of, split


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("make", short_help="Make an artifact about a concept.")(make)


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


def teach(app: typer.Typer, arguments: list[str]) -> None:
    """Let ``make METHOD --help`` tell the settings of that method."""
    if arguments[:1] != ["make"] or not {"-h", "--help"} & set(arguments):
        return
    named = next((word for word in arguments[1:] if word in set(methods())), None)
    command = next(c for c in app.registered_commands if c.name == "make")
    command.epilog = _settings_of(named) if named else "Settings of a method: conceptguard make METHOD --help"


def _settings_of(name: str) -> str:
    """Lines for a help page."""
    from .. import plugins
    from .fields import settings_rows
    from .output import table_lines
    from .plugins import makes

    method = plugins.method(name)
    if not makes(method):
        return f"{name} makes no artifacts: name it in a policy as it is, see `conceptguard plugins {name}`"
    rows = settings_rows(method.MakeSettings)
    lines = table_lines(rows, width=shutil.get_terminal_size().columns - 2) if rows else ["none of its own"]
    return "\n".join(["\b", f"Settings of {name}, each given as --set KEY=VALUE:", *lines])


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
