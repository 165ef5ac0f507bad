"""``conceptguard find``: where a concept is in a model, or which ones a model has."""

from __future__ import annotations

import time
from typing import Any

import typer

from .concepts import concepts_of
from .options import DEVICE, JSON, SETTINGS, settings_of, split


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("find", short_help="Look where a concept is inside of a model.")(find)


def _finders() -> list[str]:
    from ..plugins import offers

    return list(offers("finders"))


def find(
    finder: str = typer.Argument(
        ..., metavar="FINDER", autocompletion=_finders, help="A method that finds, e.g. concept_vectors."
    ),
    model: str = typer.Option(..., metavar="MODEL", help="An embedded model, a folder, or a Hub id."),
    concept: str | None = typer.Option(
        None, metavar="NAME[: A,B]", help="What to look for; default: whatever the model has."
    ),
    prompts: str | None = typer.Option(
        None, metavar="A,B", help="Prompts that evoke the concept, separated by commas; default: its name."
    ),
    settings: list[str] | None = SETTINGS,
    seed: int = typer.Option(0, help="Of what is drawn at random to compare with."),
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Look where a concept is inside of a model, and whether the model uses what is there.

    \b
    conceptguard find concept_vectors --model authors-lm
    conceptguard find concept_vectors --model authors-lm --concept "Siojaera Zavald"
    conceptguard find concept_vectors --model ./my-llama --concept "Ada Oram" --set forget=ada.jsonl \\
      --set retain=others.jsonl

    The first says what the model's vectors are about; the second which of them say a name; the third, from questions
    with their true answers, which of them these answers owe to, and what is answered without them. A row is a vector:
    its layer, its place there, and the tokens that it says.

    A finder's settings: conceptguard find FINDER --help. What was found is taken away by the artifact that
    `conceptguard make` makes with the same settings.
    """
    from ..concept import as_concept
    from ..errors import PolicyError, meant
    from ..finder import Search
    from ..making.settings import read_options
    from ..plugins import host_for, offers
    from .loading import either
    from .output import report
    from .table import wrapped

    begin = time.perf_counter()
    known = offers("finders")
    if finder not in known:
        hint = meant(finder, known, f"finders are {', '.join(known) or 'none'}")
        raise PolicyError(f"unknown finder '{finder}': {hint}")
    # Everything that can be wrong is found before the model is loaded.
    chosen = read_options(known[finder].FindSettings, settings_of(settings), f"finding with {finder}")
    given: Any = concepts_of([concept], None, split(prompts), "") if concept else None
    what = as_concept(given) if given else None
    loaded = either(model, device)
    search = Search(host_for(loaded), what, chosen, seed, finder, shown=json != "-")
    found = known[finder].find(search)
    told = {"finder": finder, "model": model, "concept": what.name if what else None, "told": found.told}
    report("find", found.rows, time.perf_counter() - begin, json, str(loaded.device), **told, figures=found.figures)
    if json != "-" and found.told:
        print("\n" + wrapped(found.told))
