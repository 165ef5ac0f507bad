"""``conceptguard make``: learn or solve an artifact about a concept."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import typer

from .complete import finders, methods
from .concepts import concepts_of
from .options import CONFIG, DEVICE, GPUS, JSON, MODEL, ON, SETTINGS, VARIANT, WORKERS, Usage, settings_of, split


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("make", short_help="Make an artifact about a concept.")(make)


def make(
    method: str = typer.Argument(
        ..., metavar="METHOD", autocompletion=methods, help="A method that makes artifacts, e.g. spm or uce."
    ),
    concept: list[str] | None = typer.Option(
        None, metavar="NAME[: A,B]", help="What to erase, and after a colon prompts that evoke it; may be repeated."
    ),
    concepts: Path | None = typer.Option(
        None, metavar="FILE", help="Many at once: one a line as for --concept, or a YAML list as in a policy."
    ),
    name: str = typer.Option("", metavar="NAME", help="What several concepts are called together; default: concepts."),
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
    anyway: bool = typer.Option(
        False, "--anyway", help="Train on a concept that the model does not know, or draws unasked, as well."
    ),
    preview: int = typer.Option(
        0, min=0, metavar="STEPS", help="After so many steps, again and again, pictures of how it goes; 0: none."
    ),
    settings: list[str] | None = SETTINGS,
    trials: int = typer.Option(
        3, "--try", min=0, help="At the end, so many pictures (or answers) of each kind, without and with it; 0: none."
    ),
    judge: str | None = typer.Option(
        None, metavar="FOLDER", help="Who says what these pictures show, see `conceptguard judge`."
    ),
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    each: bool = typer.Option(False, "--each", help="Of several concepts an artifact each, not one of all together."),
    on: str | None = ON,
    workers: int | None = WORKERS,
    gpus: float | None = GPUS,
    json: str | None = JSON,
) -> None:
    """Make an artifact: train a membrane, solve an edit, whatever the method does; then try whether it erases.

    \b
    conceptguard make uce --concept trumpet --prompts trumpet,horn --preserve guitar,violin --out my-registry
    conceptguard make uce --concept "pistol: pistol,gun" --concept knife --name weapons --out my-registry
    conceptguard make trce --concepts hundred.yaml --name hundred --out my-registry
    conceptguard make spm --concepts hundred.yaml --each --on ray --out my-registry
    conceptguard make spm --concept pistol --prompts pistol,gun --set rank=1 --steps 300 --out my-registry
    conceptguard make esd --concept pistol --steps 200 --preview 20 --out my-registry
    conceptguard make spm --model ./my-sd --concept "van gogh" --preserve @painters.txt --out my-registry
    conceptguard make ssd --model emoji-classifier --concept skull --out my-registry
    conceptguard make d2dgn --model emoji-graph --concept drink --out my-registry
    conceptguard make guard --model authors-lm --concept authors --set forget=forget.jsonl --set retain=retain.jsonl \\
      --out my-registry

    Several concepts are solved together and become one artifact; `conceptguard withdraw` takes one of them back, to the
    last bit. What was read of each lies beside it, so that a making that was interrupted is taken up with the next.
    With --each they become one artifact each.

    A method's settings: conceptguard make METHOD --help. The folder is a registry: `conceptguard index` says how others
    reach it. --json has the whole manifest.
    """
    from .. import plugins
    from ..making.settings import make_settings
    from .making import Loaded, Making, make_one
    from .on_ray import On, pool
    from .output import result, write_json
    from .progress import progress

    begin = time.perf_counter()
    chosen = plugins.method(method)
    given = settings_of(settings)
    takes_steps = "steps" in chosen.MakeSettings.model_fields
    # Everything that can be wrong is found before the model is loaded.
    checked = make_settings(chosen, given, **({"steps": steps} if takes_steps or steps else {}))
    what = concepts_of(concept or [], concepts, split(prompts), replacement, together=bool(name))
    if each and name:
        raise Usage("--name is of several concepts together: leave it or --each out")
    if on and not each:
        raise Usage("--on is for many artifacts: add --each, for one of each concept")
    every = what if each and isinstance(what, list) else [what]
    for one in every:
        chosen.wanted(one, name)
    options: dict[str, Any] = {**given, "preserve": _preserve(preserve), "seed": seed, "preview": preview}
    options["anyway"] = anyway
    if name:
        options["name"] = name
    if steps is not None:
        options["steps"] = steps
    load = partial(Loaded, model, device, variant=variant, config=config)
    job = Making(method, model, variant, out.expanduser(), options, checked, trials, judge)
    rows: list[dict[str, Any]] = []
    with pool(On(on, workers, gpus), load, partial(make_one, job)) as at:
        bar = progress("artifacts", len(every)) if on else nullcontext(lambda n: None)
        with bar as tick:
            made = dict(at.each(every, tick, lambda one: 1))
    for number in sorted(made):
        rows.append(made[number].row)
        if json != "-":
            print("\n".join(made[number].told))
    if json:
        write_json(result("make", rows, time.perf_counter() - begin, at.device), json)


def teach(app: typer.Typer, arguments: list[str]) -> None:
    """Let ``make METHOD --help`` and ``find FINDER --help`` tell the settings of what is named."""
    command = arguments[0] if arguments else ""
    if command not in ("make", "find") or not {"-h", "--help"} & set(arguments):
        return
    known = set(methods()) if command == "make" else {*methods(), *finders()}
    named = next((word for word in arguments[1:] if word in known), None)
    page = next(c for c in app.registered_commands if c.name == command)
    kind = {"make": "METHOD", "find": "FINDER"}[command]
    other = f"Settings of a {kind.lower()}: conceptguard {command} {kind} --help"
    page.epilog = _settings_of(named, command) if named else other


def _settings_of(name: str, command: str) -> str:
    """Lines for a help page."""
    from .. import plugins
    from .fields import settings_rows
    from .output import table_lines
    from .plugins import makes

    known = plugins.offers("finders")
    if command == "find" and name not in known:
        return f"{name} finds nothing: finders are {', '.join(known)}"
    if command == "make" and not makes(plugins.method(name)):
        return f"{name} makes no artifacts: name it in a policy as it is, see `conceptguard plugins {name}`"
    rows = settings_rows(known[name].FindSettings if command == "find" else plugins.method(name).MakeSettings)
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
