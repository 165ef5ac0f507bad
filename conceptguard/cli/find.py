"""``conceptguard find``: where a concept is in a model, which ones a model has, and which ones pictures show."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from .complete import policies
from .concepts import concepts_of
from .options import DEVICE, JSON, SETTINGS, Usage, settings_of, split


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("find", short_help="Look where a concept is in a model, or what pictures show.")(find)


def _finders() -> list[str]:
    from ..plugins import offers

    return list(offers("finders"))


def find(
    finder: str = typer.Argument(
        ..., metavar="FINDER", autocompletion=_finders, help="What finds, e.g. craft, concept_vectors."
    ),
    model: str | None = typer.Option(
        None,
        metavar="MODEL",
        help="An embedded model, a folder, or a Hub id; one that draws is looked at by what it draws.",
    ),
    concept: str | None = typer.Option(
        None, metavar="NAME[: A,B]", help="What to look for, or to draw; default: whatever the model has."
    ),
    prompts: str | None = typer.Option(
        None, metavar="A,B", help="Prompts that evoke the concept, separated by commas; default: its name."
    ),
    pictures: Path | None = typer.Option(
        None, metavar="FOLDER", help="Pictures to look through; in folders of their classes, where they have any."
    ),
    most: int = typer.Option(4096, min=8, metavar="N", help="Of a folder with more pictures: how many are read."),
    draw: int = typer.Option(96, min=8, metavar="N", help="Of a model that draws: how many pictures."),
    policy: str | None = typer.Option(
        None,
        metavar="POLICY",
        autocompletion=policies,
        help="Of a model that draws: the same prompts without it and under it, as two classes to compare.",
    ),
    encoder: str = typer.Option(
        "emoji-encoder", metavar="FOLDER", help="What reads pictures: the embedded one, or a folder of CLIP or SigLIP."
    ),
    words: str = typer.Option(
        "", metavar="FILE|A,B", help="What concepts may be called; default: the words of the embedded encoder's world."
    ),
    page: Path | None = typer.Option(None, metavar="FILE", help="Write one HTML page of what was found."),
    out: Path | None = typer.Option(
        None,
        metavar="FOLDER",
        help="Write concepts.yaml for makers and policies, and the probes that --probe asks for; of one picture also a "
        "policy and tokens.",
    ),
    probe: list[str] | None = typer.Option(
        None, metavar="NAME|NUMBER", help="With --out: also a probe of this concept, for a policy's last look."
    ),
    corrections: Path | None = typer.Option(
        None,
        metavar="FILE",
        help="What a person saved on the page: struck, renamed, boxes, rules; for --out.",
    ),
    correct: bool = typer.Option(
        False, "--correct", help="With --out: serve the page to this machine, and do at once what is corrected on it."
    ),
    port: int = typer.Option(0, min=0, max=65535, help="With --correct; 0 is any that is free."),
    settings: list[str] | None = SETTINGS,
    seed: int = typer.Option(0, help="Of what is drawn at random to compare with."),
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Look where a concept is inside of a model, or which concepts pictures show, where, and how much each matters.

    \b
    conceptguard find craft --pictures my-pictures --page found.html
    conceptguard find craft --pictures my-pictures --out found --probe skull
    conceptguard find craft --pictures my-pictures --out found --probe skull --correct
    conceptguard find craft --model emoji-sd --draw 64
    conceptguard find blindspots --model emoji-sd --policy school --page changed.html
    conceptguard find concept_express --model emoji-sd --pictures one.png --out found
    conceptguard find lens --pictures my-pictures --set extraction=kmeans --encoder ./my-clip --words words.txt
    conceptguard find concept_vectors --model authors-lm
    conceptguard find concept_vectors --model authors-lm --concept "Siojaera Zavald"
    conceptguard find concept_vectors --model ./my-llama --concept "Ada Oram" --set forget=ada.jsonl \\
      --set retain=others.jsonl

    Of pictures a row is a concept: what it may be called, its share of what decides (of the classes, where pictures lie
    in folders of them), and in how many pictures it is. Beside it stands what a random finder gives.

    Of a language model a row is a vector: its layer, its place there, and the tokens that it says. concept_vectors says
    what vectors are about; of a name which of them say it; with questions and their true answers which of them these
    answers owe to, and what is answered without them.

    A finder's settings: conceptguard find FINDER --help. What was found is taken away by the artifact that
    `conceptguard make` makes with the same settings.
    """
    from ..concept import as_concept
    from ..errors import PolicyError, meant
    from ..finder import Search
    from ..finding.corrections import read_corrections
    from ..making.settings import read_options
    from ..plugins import host_for, offers
    from .find_pictures import Asked, find_in_pictures
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
    looks_at = getattr(known[finder], "looks_at", "model")
    if looks_at == "picture" and pictures and not pictures.exists():
        raise PolicyError(f"{pictures}: no such file")
    if looks_at == "picture" and (not (pictures and model and pictures.is_file()) or policy or probe or what):
        raise Usage(
            f"{finder} looks at one picture through a model: give --pictures FILE and --model, and no --policy, "
            "--probe or --concept"
        )
    if looks_at == "pictures":
        if (pictures is None) == (model is None):
            raise Usage(f"{finder} looks through pictures: give --pictures FOLDER, or --model for what it draws")
        if policy and not model:
            raise Usage("--policy is for what a model draws: add --model")
        if (probe or corrections or correct) and not out:
            option = "--probe" if probe else "--corrections" if corrections else "--correct"
            raise Usage(f"{option} writes files: add --out FOLDER")
    if looks_at != "model":
        asked = Asked(pictures, model, what, most, draw, policy, encoder, words, page, out, probe or [], seed, device,
                      read_corrections(corrections) if corrections else None, port if correct else None)  # fmt: skip
        return find_in_pictures(known[finder], chosen, asked, json, begin)
    if model is None or pictures or page or out or policy or corrections or correct:
        raise Usage(
            f"{finder} looks into a model: give --model, and no --pictures, --policy, --page, --out or --correct"
        )
    loaded = either(model, device)
    search = Search(host_for(loaded), what, chosen, seed, finder, shown=json != "-")
    found = known[finder].find(search)
    told = {"finder": finder, "model": model, "concept": what.name if what else None, "told": found.told}
    report("find", found.rows, time.perf_counter() - begin, json, str(loaded.device), **told, figures=found.figures)
    if json != "-" and found.told:
        print("\n" + wrapped(found.told))
