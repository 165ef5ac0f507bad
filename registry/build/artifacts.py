"""Make every artifact that ships, from the prompt suite: `python -m conceptguard_registry.build.artifacts`.

    python -m conceptguard_registry.build.artifacts --list
    python -m conceptguard_registry.build.artifacts --only uce rece spm/beer
    python -m conceptguard_registry.build.artifacts --model out/emoji-sd-2/emoji-sd --out out/tried --only uce trce
    python -m conceptguard_registry.build.artifacts --model emoji-flow --only spm/pistol esd/pistol
    conceptguard eval --model out/emoji-sd-2/emoji-sd --suite emoji-sd --artifacts out/tried --makers closed

What exists with the same settings, on the same weights, is left alone, so an interrupted run is taken up by running it
again. Two are made at a time, in processes of one thread each: on two cores that is quicker than one with two. Guards
are made with the suite's tuning wordings: training wordings are the base model's, judging wordings the judges'.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from conceptguard.measuring.suite import Object, Suite, load_suite

HOME = Path(__file__).resolve().parents[1]

# Membranes beyond the suite's concepts, so that twenty can be attached at once.
EXTRA = ("trumpet", "cactus", "camera", "sunflower", "key")
STYLE_REPLACEMENT = "noto"
LICENCE = "Apache-2.0"
# Of everything that is made here: raised whenever the model is another, since who fetched a version has that one.
VERSION = "2"

# Of 15 pictures each of wine, syringe and beer in wordings that guards are made with, the highest score that a probe of
# the concept gives is 2, 0 and 8 after 24 steps, and -7, -5 and -9 after 48.
SPM: dict[str, Any] = {"steps": 48}
# A style, which is not pushed past the one that it gives way to, needs more.
STYLE: dict[str, Any] = {"steps": 96, "eta": 0.0}
UCE: dict[str, Any] = {"lamb": 1.0, "preserve_scale": 0.1}
# Most probes learn from halves of pictures as well: of rims of their concept around something else, in pictures kept
# apart, they then miss few, where they missed nearly all. Those of two objects would take more of what is kept with it,
# of 300 pictures in wordings that guards are made with, than without.
PROBE: dict[str, Any] = {"draw_steps": 12}
RIMS: dict[str, Any] = {"rims": 2, "steps": 800}
WITHOUT_RIMS = ("pistol", "bomb")
ITD: dict[str, Any] = {}
FEW_SHOT: dict[str, Any] = {}
ADVUNLEARN: dict[str, Any] = {}
TRCE: dict[str, Any] = {}
# To compare with, one of each that is small; by the methods' own settings.
TRAINED = ("esd", "all_but_one", "realera", "doco")
# On this encoder the concept comes back when the prompt's own embeddings do. Of 60 pictures of ten concepts in wordings
# that guards are made with, the shipped probes flag 4, 3, 3 and 2 at a scale of 1, 1.15, 1.3 and 1.5.
SAFREE: dict[str, Any] = {"up_t": 50, "scale": 1.3}
# Each kept text takes one of the encoder's 128 directions, and a concept's own words need some as well.
NULLSPACE_KEEPS = 100


@dataclass(frozen=True)
class Job:
    """One artifact: arguments of a method's ``make``."""

    method: str
    concept: dict[str, Any]
    preserve: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.method}/{self.concept['name']}"


def jobs(suite: Suite) -> Iterator[Job]:
    """All that ships, what a policy needs first."""
    objects = [suite.object(name) for name in suite.concepts]
    ten = objects[:10]
    for method, options in (("uce", UCE), ("spm", SPM)):
        for it in ten:
            yield _object_job(suite, method, it, options)
    kept = tuple(suite.words_beside([it.name for it in ten]))
    yield Job("uce", _several(suite, ten), kept, {**UCE, "templates": _templates(suite)})
    yield Job("itd", _several(suite, ten), kept, {**ITD, **_wordings(suite)})
    for method, options in (
        ("safree", SAFREE), ("probe", PROBE), ("rece", UCE), ("trce", TRCE),
    ):  # fmt: skip
        for it in ten:
            rims = RIMS if method == "probe" and it.name not in WITHOUT_RIMS else {}
            yield _object_job(suite, method, it, {**options, **rims})
    for it in ten:
        yield Job("nullspace", _concept(suite, it), _names_beside(suite, it)[:NULLSPACE_KEEPS])
    for method, options in (("few_shot", FEW_SHOT), ("advunlearn", ADVUNLEARN)):
        for it in ten:
            yield _object_job(suite, method, it, options)
    for method in TRAINED:
        yield _object_job(suite, method, suite.object("pistol"), {})
    for style in suite.concept_styles:
        yield _style_job(suite, style)
    for it in [*objects[10:], *(it for it in suite.objects if it.name in EXTRA)]:
        yield _object_job(suite, "spm", it, SPM)


def _beside(suite: Suite, label: str, known: list[Job]) -> Job | None:
    """What does not ship, METHOD/OBJECT, with the method's own settings; None for what is no such thing."""
    method, _, name = label.partition("/")
    if label in {job.label for job in known} or name not in {it.name for it in suite.objects}:
        return None
    return _object_job(suite, method, suite.object(name), {})


def _concept(suite: Suite, it: Object) -> dict[str, Any]:
    return {"name": it.name, "prompts": suite.words(it.name)}


def _object_job(suite: Suite, method: str, it: Object, options: dict[str, Any]) -> Job:
    kept = tuple(suite.words_beside([it.name]))
    return Job(method, _concept(suite, it), kept, {**options, "templates": _templates(suite)})


def _several(suite: Suite, objects: list[Object]) -> dict[str, Any]:
    return {"name": "ten objects", "prompts": [w for it in objects for w in suite.words(it.name)]}


def _names_beside(suite: Suite, it: Object) -> tuple[str, ...]:
    """The names of all other objects, near ones first."""
    names = {o.name for o in suite.objects}
    return tuple(word for word in suite.words_beside([it.name]) if word in names)


def _style_job(suite: Suite, style: str) -> Job:
    """A style is erased around objects that are to stay: it gives way to another style, and is not pushed further."""
    objects = [o for o in suite.objects if o.group != "target"][::10]
    frames = [t.replace("{style}", "{}") for t in suite.tuning_templates]
    templates = [_with_object(frames[i % len(frames)], it) for i, it in enumerate(objects)]
    concept = {"name": style, "prompts": suite.words(style), "replacement": STYLE_REPLACEMENT}
    kept = tuple(s for s in suite.styles if s != style)
    return Job("spm", concept, kept, {**STYLE, "templates": templates})


def _with_object(frame: str, it: Object) -> str:
    return frame.replace("{thing}", it.thing).replace("{noun}", it.name)


def _templates(suite: Suite) -> list[str]:
    """Half of the suite's tuning wordings for any object, each with one style, and two without."""
    styles = list(suite.styles)
    texts = suite.tuning_templates[::2]
    styled = [t.replace("{style}", styles[i % len(styles)]) for i, t in enumerate(texts)]
    return [_open(t) for t in ["{noun}", *styled, "{thing}"]]


def _wordings(suite: Suite) -> dict[str, Any]:
    """Every tuning wording in every style; one in six is kept for the threshold of a classifier."""
    styled = [t.replace("{style}", s) for t in suite.tuning_templates for s in suite.styles]
    texts = list(dict.fromkeys(_open(t) for t in [*styled, *suite.tuning_templates_plain]))
    return {"templates": [t for i, t in enumerate(texts) if i % 6 != 3], "calibration": texts[3::6]}


def _open(wording: str) -> str:
    """A wording of the suite as makers write it."""
    return wording.replace("{thing}", "{a}").replace("{noun}", "{}")


def _host(model: str) -> Any:
    global _loaded
    if _loaded is None:
        import torch

        import conceptguard
        from conceptguard.plugins import host_for

        torch.set_num_threads(1)
        pipe = conceptguard.load_model(model).to("cuda" if torch.cuda.is_available() else "cpu")
        pipe.set_progress_bar_config(disable=True)
        _loaded = host_for(pipe)
    return _loaded


_loaded: Any = None


def make(job: Job, model: str, out: Path) -> str:
    """Make one artifact, or find it made; a line that says so."""
    from conceptguard import plugins
    from conceptguard.files.atomic import write_bytes
    from conceptguard.files.paths import MANIFEST
    from conceptguard.making.maker import find_made

    started = time.perf_counter()
    host, method = _host(model), plugins.method(job.method)
    arguments = {"preserve": list(job.preserve), **job.options}
    if find_made(method, host, job.concept, out, **arguments):
        return f"{job.label}: there already"
    made = method.make(host, job.concept, out, progress=False, **arguments)
    made.manifest.licence, made.manifest.version = LICENCE, VERSION
    write_bytes(made.folder / MANIFEST, made.manifest.to_yaml().encode())
    measured = made.manifest.gate or {k: made.manifest.made[k] for k in ("threshold", "missed", "flagged")}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in measured.items())
    return f"{job.label}: {time.perf_counter() - started:.0f} s, {told}"


def write_policies(suite: Suite, out: Path) -> None:
    """Policies over what there is: all objects as membranes, drinks, the style, one edit for ten objects."""
    objects = suite.concepts[:10]
    drinks = [c for c in ("beer", "wine", "cocktail") if c in suite.concepts]
    style = suite.concept_styles[:1]
    found = {
        "school": [("spm", c) for c in objects],
        "school-uce": [("uce", c) for c in objects],
        "ten-objects": [("uce", "ten-objects")],
        "no-alcohol": [("spm", c) for c in drinks],
        "no-mono": [("spm", c) for c in style],
    }
    folder = out / "policies"
    folder.mkdir(parents=True, exist_ok=True)
    for name, guards in found.items():
        listed = [{"method": m, "artifact": f"{suite.base}/{m}/{c}"} for m, c in guards]
        text = yaml.safe_dump({"name": name, "on_violation": "black", "guards": listed}, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-sd", help="an embedded model, or a folder called like one")
    parser.add_argument("--suite", help="a suite's name, file or folder; default: the one named like the model")
    parser.add_argument("--out", type=Path, default=HOME, help="registry to write to")
    parser.add_argument(
        "--only", nargs="*", metavar="METHOD[/CONCEPT]", help="e.g. rece spm/beer, also what does not ship: esd/beer"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes, one thread each")
    parser.add_argument("--list", action="store_true", help="say what would be made, and make nothing")
    args = parser.parse_args()
    suite = load_suite(args.suite or Path(args.model).name)
    if (family := Path(args.model).name) != suite.base:
        parser.error(f"artifacts for {args.model} would be of a family '{family}', and the suite is about "
                     f"'{suite.base}': call the folder '{suite.base}'")  # fmt: skip
    known = list(jobs(suite))
    known += [job for label in args.only or () if (job := _beside(suite, label, known))]
    wanted = [job for job in known if not args.only or job.label in args.only or job.method in args.only]
    if unknown := set(args.only or ()) - {name for job in known for name in (job.label, job.method)}:
        parser.error(f"nothing is called {', '.join(sorted(unknown))}: see --list")
    if args.list:
        print("\n".join(job.label for job in wanted))
        return
    failed = make_all(wanted, args.model, args.out, args.jobs)
    if not args.only:
        write_policies(suite, args.out)
    from conceptguard.registry import rebuild_index

    rebuild_index(args.out)
    if failed:
        sys.exit(f"{len(failed)} of {len(wanted)} were not made: {', '.join(failed)}")


def make_all(wanted: list[Job], model: str, out: Path, processes: int) -> list[str]:
    """Make all of them, with a bar; the labels of those that could not be made, of which standard error says why."""
    from tqdm import tqdm

    failed = []
    with (
        ProcessPoolExecutor(min(processes, len(wanted)), mp_context=get_context("spawn")) as pool,
        tqdm(total=len(wanted), desc="artifacts", unit="artifact", smoothing=0) as bar,
    ):
        running = {pool.submit(make, job, model, out): job for job in wanted}
        for done in as_completed(running):
            label = running[done].label
            try:
                bar.write(done.result())
            except Exception as error:  # one that fails keeps no other from being made
                failed.append(label)
                bar.write(f"{label}: NOT MADE: {type(error).__name__}: {error}", file=sys.stderr)
            bar.update()
    return failed


if __name__ == "__main__":
    main()
