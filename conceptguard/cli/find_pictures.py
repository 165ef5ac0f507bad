"""``conceptguard find`` in pictures: a folder's, what a model draws, or a single one that a model looks at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConceptGuardError

if TYPE_CHECKING:
    from ..concept import Concept
    from ..finder import Found, FoundConcept, PictureSet, Search
    from ..finding.checks import Checks
    from ..finding.corrections import Corrections

CONTROL = "random_directions"


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    pictures: Path | None
    model: str | None
    concept: Concept | None
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
    from ..finding.encoders import load_encoder, words_for
    from .devices import pick_device
    from .output import print_table, report
    from .table import wrapped

    encoder = load_encoder(asked.encoder)
    encoder.model.to(pick_device(asked.device))
    shown, one = json != "-", finder.looks_at == "picture"
    host = _host(asked) if one else None
    search = Search(host, asked.concept, settings, asked.seed, finder.name, shown,
                    _picture(asked, host) if one else _pictures(asked), encoder,
                    words_for(asked.encoder, asked.words, things=one))  # fmt: skip
    found = finder.find(search)
    said = asked.corrections
    if said is not None:
        found = _corrected(finder, search, found, said)
    checks = [] if one else _checks(finder, search, found)
    page = _page(asked, search, found, checks) if asked.page or asked.port is not None else ""
    try:
        written, why = _write(asked, search, found.concepts, said, page), ""
    except ConceptGuardError as error:
        if asked.port is None:
            raise
        written, why = [], f"{error}; it may be once the page says more"  # such as where the concept is
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
        _serve(finder, search, found, asked, page)


def _corrected(finder: Any, search: Search, found: Found, said: Corrections) -> Found:
    """Looked for again, where the finder itself decides by what was said. Raises PolicyError."""
    from dataclasses import replace

    from ..errors import PolicyError
    from ..finding.corrections import checked, settings_with

    assert search.pictures is not None
    checked(said, found.concepts, search.pictures)
    if said.rules and not hasattr(search.settings, "rules"):
        raise PolicyError(f"{finder.name} keeps no rules: `conceptguard find confounders` does")
    settings = settings_with(search.settings, said)
    if settings is search.settings:
        return found
    return finder.find(replace(search, settings=settings, shown=False))


def _serve(finder: Any, search: Search, found: Found, asked: Asked, page: str) -> None:
    """Until ctrl-C."""
    from ..finding.live import Live

    def correct(said: Corrections) -> str:
        begin = time.perf_counter()
        again = _corrected(finder, search, found, said)
        written = _write(asked, search, found.concepts, said)
        told = [again.told] if again is not found else []
        return "\n".join([*told, *(f"wrote {file}" for file in written), f"{time.perf_counter() - begin:.1f} s"])

    assert asked.port is not None
    live = Live(page, correct, asked.port)
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
        with progress("pictures", sum(1 for _ in asked.pictures.expanduser().rglob("*"))) as tick:
            return read_folder(asked.pictures, tick)
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


def _checks(finder: Any, search: Search, found: Found) -> list[Checks]:
    """Of the finder, and of the random one on the same pictures."""
    from dataclasses import replace

    from ..finding.checks import check
    from ..finding.crops import look
    from ..plugins import offers

    s = search.settings
    assert search.pictures is not None and search.encoder is not None
    rows = look(search.pictures, search.encoder, s.crop, s.stride).rows.mean(1)
    checks = [check(finder, search, found, rows)]
    control = offers("finders").get(CONTROL)
    if control is not None and control is not finder:
        same = {name: getattr(s, name) for name in control.FindSettings.model_fields if hasattr(s, name)}
        same = {name: value for name, value in same.items() if name not in ("extraction", "importance")}
        again = replace(search, settings=control.FindSettings(**same), label=CONTROL, shown=False)
        checks.append(check(control, again, control.find(again), rows))
    return checks


def _page(asked: Asked, search: Search, found: Found, checks: Sequence[Checks]) -> str:
    from ..finding.page import page

    under = f" without and under policy {asked.policy}" if asked.policy else ""
    where = str(asked.pictures or f"{asked.model}, {asked.draw} drawn{under}")
    facts = {"Finder": search.label, "Pictures": where, "Encoder": asked.encoder, "Seed": asked.seed}
    assert search.pictures is not None
    rules, live = hasattr(search.settings, "rules"), asked.port is not None
    return page(found, search.pictures, checks, facts, asked.corrections, rules, live)


def _write(
    asked: Asked, search: Search, found: Sequence[FoundConcept], said: Corrections | None, page: str = ""
) -> list[str]:
    """The files that were asked for; of a page that is served none."""
    from ..finding.corrections import Corrections, corrected, cut_out
    from ..finding.files import (
        STEPS,
        guards_by_words,
        guards_of,
        named,
        write_concepts,
        write_policy,
        write_probe,
        write_tokens,
    )
    from ..finding.page import write_page
    from ..making.progress import progress_bar

    pictures = search.pictures
    written: list[Path] = []
    assert pictures is not None
    if asked.page and page:
        write_page(asked.page, page)
        written.append(asked.page)
    if asked.out:
        said = said or Corrections()
        kept = corrected(found, pictures, said)
        write_concepts(asked.out / "concepts.yaml", kept)
        written.append(asked.out / "concepts.yaml")
        made = []
        for name in dict.fromkeys(named(found, name).name for name in asked.probes):
            if name in said.strike:
                continue
            one = named(kept, said.rename.get(name, name))
            more = cut_out(pictures, said, name, True), cut_out(pictures, said, name, False)
            with progress_bar(f"probe {one.name}", STEPS, search.shown) as tick:
                made.append(write_probe(asked.out, one, pictures, asked.seed, tick, more))
        guards = guards_of(asked.out, made) if search.host is None else guards_by_words(kept)
        if guards:
            write_policy(asked.out / "policy.yaml", guards)
            written += [asked.out / "policy.yaml", *(one.folder for one in made)]
        elif asked.probes:
            (asked.out / "policy.yaml").unlink(missing_ok=True)  # of a probe that was struck
        written += write_tokens(asked.out / "tokens", kept)
    return [str(file) for file in written]
