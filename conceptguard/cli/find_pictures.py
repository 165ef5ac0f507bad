"""``conceptguard find`` in pictures: a folder's, what a model draws, or a single one that a model looks at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConceptGuardError

if TYPE_CHECKING:
    from ..concept import Concept
    from ..finder import Found, PictureSet, Search
    from ..finding.checks import Checks
    from ..finding.corrections import Corrections


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    pictures: Path | None
    model: str | None
    concept: Concept | None
    most: int
    draw: int
    policy: str | None
    encoder: str
    words: str
    page: Path | None
    out: Path | None
    probes: Sequence[str]
    seed: int
    device: str | None
    corrections: Corrections | None
    port: int | None  # of the page, where it is served


def find_in_pictures(finder: Any, settings: Any, asked: Asked, json: str | None, begin: float) -> None:
    """Look, check the finder beside a random one, and write what was asked for."""
    from ..finder import Search
    from ..finding.checks import beside_random
    from ..finding.encoders import load_encoder, words_for, words_in
    from ..finding.live import Live
    from ..finding.looked import Looked
    from ..finding.page import write_page
    from .devices import pick_device
    from .output import print_table, report
    from .table import wrapped

    encoder = load_encoder(asked.encoder)
    encoder.model.to(pick_device(asked.device))
    shown, one = json != "-", finder.looks_at == "picture"
    host = _host(asked) if one else None
    search = Search(host, asked.concept, settings, asked.seed, finder.name, shown,
                    _picture(asked, host) if one else _pictures(asked), encoder,
                    words_for(asked.encoder, words_in(asked.words), things=one))  # fmt: skip
    looked = Looked(finder, search, finder.find(search), asked.out or Path(), asked.probes)
    said = asked.corrections
    if said is not None:
        looked = replace(looked, found=looked.again(said))
    found = looked.found
    checks = [] if one else beside_random(finder, search, found)
    page, written, why = "", [], ""
    if asked.page or asked.port is not None:
        page = _page(asked, search, found, checks)
    if asked.page:
        write_page(asked.page, page)
        written.append(str(asked.page))
    try:
        written += looked.write(said) if asked.out else []
    except ConceptGuardError as error:
        if asked.port is None:
            raise
        why = f"{error}; it may be once the page says more"  # such as where the concept is
    told = {"finder": finder.name, "model": asked.model, "pictures": str(asked.pictures or ""),
            "encoder": asked.encoder, "told": found.told}  # fmt: skip
    report("find", found.rows, time.perf_counter() - begin, json, str(encoder.model.device), **told,
           checks=[each.row() for each in checks], figures=found.figures, written=written)  # fmt: skip
    if json != "-":
        print("\n" + wrapped(found.told) + "\n")
        if checks:
            print_table([each.row() for each in checks])
        for line in [*(f"wrote {file}" for file in written), *([why] if why else [])]:
            print(line)
    if asked.port is not None:
        live = Live(page, looked.correct, asked.port)
        print(f"Correct at {live.url} and end with ctrl-C.", flush=True)
        live.run()


def _host(asked: Asked) -> Any:
    from ..plugins import host_for
    from .loading import drawing

    assert asked.model is not None
    return host_for(drawing(asked.model, asked.device))


def _picture(asked: Asked, host: Any) -> PictureSet:
    """As large as the model draws, cut to its middle."""
    from ..finder import PictureSet
    from ..making.pictures import picture_files, read

    files = picture_files(str(asked.pictures))
    pixels = read(files, host.denoiser().picture_size)
    return PictureSet((pixels * 255).round().byte(), [files[0].name], [""])


def _pictures(asked: Asked) -> PictureSet:
    from ..finding.pictures import beside, draw, read_folder
    from ..making.templates import TEMPLATES, fill
    from ..measuring.samples import Recipe
    from ..measuring.suite import load_suite
    from .loading import drawing
    from .progress import estimated, progress

    if asked.pictures:
        there = sum(1 for _ in asked.pictures.expanduser().rglob("*"))
        with progress("pictures", min(there, asked.most)) as tick:
            return read_folder(asked.pictures, tick, most=asked.most)
    assert asked.model is not None
    if asked.concept:
        prompts = [fill(template, prompt) for prompt in asked.concept.prompts for template in TEMPLATES]
    else:
        suite = load_suite(asked.model)
        prompts = [f"{it.thing}, {style} style" for it in suite.objects for style in suite.styles]
        prompts = prompts[:: max(1, len(prompts) // asked.draw)]
    pipe = drawing(asked.model, asked.device)
    with estimated("pictures", asked.draw * (2 if asked.policy else 1), "a smaller --draw") as tick:
        if asked.policy:
            return beside(pipe, asked.policy, prompts, asked.draw, Recipe(), tick)
        return draw(pipe, prompts, asked.draw, Recipe(), tick)


def _page(asked: Asked, search: Search, found: Found, checks: Sequence[Checks]) -> str:
    from ..finding.page import page

    under = f" without and under policy {asked.policy}" if asked.policy else ""
    where = str(asked.pictures or f"{asked.model}, {asked.draw} drawn{under}")
    facts = {"Finder": search.label, "Pictures": where, "Encoder": asked.encoder, "Seed": asked.seed}
    assert search.pictures is not None
    rules, live = hasattr(search.settings, "rules"), asked.port is not None
    return page(found, search.pictures, checks, facts, asked.corrections, rules, live)
