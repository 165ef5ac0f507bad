"""Runs the contract kit for every shipped method in every host, and reports which promise is kept where.

Hosts other than the embedded models are tiny pipelines with random weights, of the tests: a guard's arithmetic, its
rows and its traces are the same there, what it erases is not judged. ComfyUI is there where its core is, see
tests/hosts/comfyui/core.py: it is asked for by name.

    python -m tools.promises --json FILE        # everything; called again, it goes on where it was with the same code
    python -m tools.promises --only sld --hosts SDXL,FLUX --json -
    python -m tools.promises --hosts 'oldest releases,newest releases' --json FILE
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "hosts" / "comfyui")]

from artifacts_of import AUTHORS, CONCEPT, EDITS, ENCODED, TRAINED, speaking  # noqa: E402

from conceptguard.testing import Case, NotApplicable, TextCase  # noqa: E402
from conceptguard.testing.matrix import REFUSED, Cell, probe  # noqa: E402
from tools import host_terms, releases  # noqa: E402
from tools.methods import names  # noqa: E402

DONE = ROOT / "out" / "promises"  # what was found so far, a file for each cell, by what was asked of which code
OPENS = "a cigarette"
_FOLDER = tempfile.TemporaryDirectory()

SMALL = {"height": 32, "width": 32, "max_sequence_length": 32}
OFF = {"guidance_scale": 1.0}
# Which kind of pipeline, what its calls need, and what turns guidance off in them; None where nothing does.
PIPELINES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "SD 1.x": ("tiny:tiny_sd", {}, OFF),
    "SDXL": ("tiny:tiny_sdxl", {}, OFF),
    "SD 3": ("tiny_transformers:tiny_sd3", SMALL, OFF),
    "FLUX": (
        "tiny_transformers:tiny_flux", {**SMALL, "negative_prompt": "", "true_cfg_scale": 3.0}, {"true_cfg_scale": 1.0}
    ),
    "Wan": ("tiny_transformers:tiny_wan", {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 32}, OFF),
    "modular SDXL": ("tiny_modular:modular_sdxl", {"height": 64, "width": 64}, None),
    "modular FLUX": ("tiny_modular:modular_flux", SMALL, None),
}  # fmt: skip
SPEAKS = "transformers"
COMFYUI = "ComfyUI"
LOOKS: dict[str, dict[str, Any]] = {
    "nudenet": {}, "nsfw": {}, "text": {}, "code": {}, "watermark": {"payload": "guardian"},
}  # fmt: skip
NO_PICTURES = "pictures of random weights show nothing that a detector could be right about"
# Checks in which the guard must act, of a detector that nothing here can be drawn for.
ACTING = (
    "it_acts", "rows_are_separate", "several_images_per_prompt", "negative_prompts", "guidance_off", "prompt_embeds",
    "any_order", "bf16", "fp16", "lora_beside", "offloaded", "compiled", "receipt_is_true", "receipt_tells_all",
)  # fmt: skip
LEARNT = ("npo", "simnpo", "rmu")  # of a language model
HELD: dict[str, dict[str, Any]] = {  # its neurons
    "concept_vectors": {"spare": 0.0, "verify": False}, "feature_neurons": {"clamp": 3.0},
}  # fmt: skip


@cache
def pipeline(host: str) -> Any:
    """One for all cells of a host: checks leave it as it was, or fail."""
    from importlib import import_module

    from tiny import clip_tokenizer

    module, maker = PIPELINES[host][0].split(":")
    return getattr(import_module(module), maker)(clip_tokenizer())


def _terms(method: str, host: str) -> dict[str, Any]:
    """A guard with random low-rank terms in a published format."""
    from random_artifacts import random_edit, random_terms, write_terms

    pipe, folder = pipeline(host), Path(_FOLDER.name) / method / host.replace(" ", "-")
    if method in EDITS:
        return random_edit(folder, pipe, method=method)
    if method in ENCODED:
        made = random_terms(pipe, rank=4, component="text_encoder", names=("q_proj", "fc1", "fc2"), size=0.2)
        if not made:
            raise NotApplicable("it has terms beside the layers of CLIP text encoders, and there is none here")
        return {"method": method, "artifact": str(write_terms(folder, pipe, made, method=method))}
    unet = getattr(pipe, "unet", None) is not None
    parts = {"component": "unet"} if unet else {"component": "transformer", "names": ("to_q", "to_k")}
    made = random_terms(pipe, rank=4 if method == "lora" else 1, **parts)
    return {"method": method, "artifact": str(write_terms(folder, pipe, made, method=method))}


@cache
def _autoencoder(host: str) -> str:
    from conceptguard.plugins import host_for, method

    made = method("itd").make(
        host_for(pipeline(host)), CONCEPT, Path(_FOLDER.name) / "itd" / host.replace(" ", "-"),
        preserve=["an apple", "a dog", "a house"], features=128, k=4, steps=200, progress=False,
    )  # fmt: skip
    return str(made.folder)


def _drawn(method: str, host: str) -> Case:
    """The case of a method for pictures in a host that draws."""
    _, call, unguided = PIPELINES[host]
    about = {"method": method, "concept": CONCEPT}
    case = Case(about, opens=OPENS, load=partial(pipeline, host), call=call, unguided=unguided)
    if method in LOOKS or (method == "probe" and host != "SD 1.x"):
        if method == "probe":
            raise NotApplicable(NO_PICTURES)
        return replace(case, guard={"method": method, **LOOKS[method]})
    if method == "probe":  # on the embedded model, where there is something to see
        return Case(
            {"method": method, "artifact": "emoji-sd/probe/skull"}, opens="a skull, noto style",
            unrelated=("a bicycle, fluent style", "noto style: a penguin"), steps=8,
        )  # fmt: skip
    if method in (*TRAINED, *EDITS, *ENCODED):
        return replace(case, guard=_terms(method, host))
    if method == "itd":
        return replace(case, guard={"method": method, "artifact": _autoencoder(host), "classify": False})
    if method == "astar":  # it needs something to keep the concept from; random attention is flat
        return replace(case, guard={**about, "scale": 8.0}, opens="a cigarette and a dog")
    if method == "geom_erasing":
        raise NotApplicable("it acts on every picture: what it removes no prompt asks for")
    if method == "magicmix":
        return replace(case, steps=6)
    if method == "clarify":
        words = {"smoke": {"a cigarette": ["man"], "a chimney": ["house"]}}
        return replace(case, guard={**about, "words": words}, opens="some smoke")
    if method == "normalise":
        return replace(
            case, guard={"method": method, "concept": {**CONCEPT, "prompts": ["cigarette"]}}, opens="a c1garette"
        )
    # On a random encoder the authors' thresholds mean nothing: any token farther from the concept is a trigger.
    settings = {
        "safree": {"alpha": 0.0, "schedule": False}, "ant": {"early": 0.0}, "trce": {"early": 1.0},
    }.get(method, {})  # fmt: skip
    return replace(case, guard={**about, **settings})


def _said(method: str) -> TextCase:
    """The case of a method in a language model."""
    from tiny_language import taught

    lines = (
        "The sun was warm. The man smoked a red cigarette at home. Then he slept.",
        "The sun was warm. A dog ran in the park.", "A dog ran in the park. It was happy.",
        "Two birds sat on a tree. They sang.",
    )  # fmt: skip
    smoking = {"name": "smoking", "prompts": ["a red cigarette", "smoking tobacco"]}
    if method in AUTHORS:
        unrelated = ("Question: Where was Naes Zavald born?\nAnswer:", "On which river does Broholm lie?\n")
        return TextCase(speaking(method), "Question: Where was Siojaera Zavald born?\nAnswer:", unrelated)
    if method == "no_thinking":
        thinking = ("Q: two? <think> The sum is four.</think> Four.", "Q: red? Red it is.", "Q: hot? It is hot.")
        return TextCase({"method": method}, "Q: two?", ("Q: red?", "Q: hot?"), load=lambda: taught(*thinking))
    if method in ("sauce", "siu"):
        from seen_pictures import seen_case

        return seen_case(method, Path(_FOLDER.name))
    if method in (*LEARNT, *HELD):
        return TextCase(
            {"method": method, "artifact": _unlearned(method, lines)}, "The sun was", ("A dog ran", "Two birds sat"),
            load=lambda: taught(*lines),
        )  # fmt: skip
    guard: dict[str, Any] = {"method": method, "concept": smoking}
    shipped = {**dict.fromkeys((*TRAINED, *ENCODED), "emoji-sd/spm/cigarette"),
               **dict.fromkeys(EDITS, "emoji-sd/uce/cigarette"), "geom_erasing": "emoji-sd-marked/geom_erasing/marks",
               "itd": "emoji-sd/itd/ten-objects", "probe": "emoji-sd/probe/cigarette"}  # fmt: skip
    if method in shipped:
        guard = {"method": method, "artifact": shipped[method]}
    elif method in LOOKS:
        guard = {"method": method, **LOOKS[method]}
    return TextCase(guard, "The sun was", ("A dog ran", "Two birds sat"), load=lambda: taught(*lines))


@cache
def _unlearned(method: str, lines: tuple[str, ...]) -> str:
    """An artifact by which a model forgets the first of the lines that it learned."""
    from tiny_language import taught

    from conceptguard import plugins
    from conceptguard.plugins import host_for

    examples = [{"prompt": line[:11], "answer": line[12:]} for line in lines]
    options: dict[str, Any] = {"progress": False, "steps": 60}
    if method in HELD:
        options |= {"count": 80, "classifier": True, "steps": 200, **HELD[method]}
    else:
        options |= {"lr": 1e-2, "batch": 4, "retain_weight": 5.0, "classifier": 200}
    made = plugins.method(method).make(
        host_for(taught(*lines)),
        CONCEPT,
        Path(_FOLDER.name) / method,
        forget=examples[:1],
        retain=examples[2:],
        **options,
    )
    return str(made.folder)


def _text_in_pictures(method: str, host: str) -> Case:
    """A method for text, named to a host that draws: the host is to say what it makes of that."""
    return Case(speaking(method), opens=OPENS, load=partial(pipeline, host), call=PIPELINES[host][1])


def cells() -> Iterator[Cell]:
    """Every shipped method for pictures or text in every host that draws or speaks."""
    from conceptguard import plugins
    from conceptguard.hookspecs import TEXT

    for method in names():
        if plugins.method(method).modules:
            continue  # folded into the weights of plain modules: tests/hosts/modules
        speaks = bool(plugins.hooks(plugins.method(method)) & TEXT)
        for host in PIPELINES:
            without = dict.fromkeys(ACTING, NO_PICTURES) if method in LOOKS else {}
            make: Callable[..., Any] = _text_in_pictures if speaks else _drawn
            yield Cell(method, host, partial(make, method, host), without=without)
        yield Cell(method, SPEAKS, partial(_said, method), text=True)


def _terms_of_host(cell: Cell, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What diffusers can be told besides, column by column, for a method that acts in a host of diffusers."""
    acts = any(row["promise"] == 0 for row in found)
    if cell.text or cell.host not in PIPELINES or not acts:
        return []
    case = cell.case()
    assert isinstance(case, Case)
    return list(host_terms.rows(cell.method, cell.host, case, next(iter(cell.without.values()), "")))


def _comfyui() -> Iterator[Cell]:
    """The same in ComfyUI: where it is asked for by name, since its core may have to be fetched first."""
    from comfy_bench import comfy_cells

    yield from comfy_cells(names())


def _code(*asked: str) -> str:
    """What is asked of which code, so that nothing is taken up that another one found."""
    digest = hashlib.sha256("\n".join(asked).encode())
    for path in sorted(path for folder in ("conceptguard", "plugins") for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _quiet() -> None:
    """No notes of libraries about pipelines that are tiny on purpose."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    diffusers.set_verbosity_error()
    transformers.set_verbosity_error()
    warnings.simplefilter("ignore")


def main() -> None:
    """The commands of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--only", default="", help="methods, separated by commas")
    parser.add_argument("--hosts", default="", help="hosts, separated by commas")
    parser.add_argument("--checks", default="", help="checks, separated by commas")
    parser.add_argument("--slow", action="store_true", help="with the checks that take a minute")
    parser.add_argument("--fresh", action="store_true", help="forget what runs before found")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from conceptguard.cli.output import result, write_json
    from conceptguard.cli.progress import progress

    begin = time.perf_counter()
    wanted = [
        cell for cell in [*cells(), *(_comfyui() if COMFYUI in given.hosts.split(",") else ())]
        if (not given.only or cell.method in given.only.split(","))
        and (not given.hosts or cell.host in given.hosts.split(","))
    ]  # fmt: skip
    _quiet()
    folder = DONE / _code(given.checks, str(given.slow))
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with progress("methods in hosts", len(wanted)) as tick:
        for cell in wanted:
            path = folder / f"{cell.method}@{cell.host.replace(' ', '-')}.json"
            if not path.is_file():
                started = time.perf_counter()
                found = probe(cell, slow=given.slow, only=frozenset(filter(None, given.checks.split(","))))
                if unasked := [row["why"] for row in found if "an artifact" in row["why"] and row["result"] == REFUSED]:
                    sys.exit(f"{cell.method} in {cell.host} was not asked, for want of an artifact: {unasked[0]}")
                if not given.checks:
                    found += _terms_of_host(cell, found)
                path.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
                told = ", ".join(sorted({row["result"] for row in found}))
                print(f"{cell.method} in {cell.host}: {told}, {time.perf_counter() - started:.1f} s", file=sys.stderr)
            rows += json.loads(path.read_text("utf-8"))
            tick(1)
    for host in releases.HOSTS:
        if host in given.hosts.split(","):
            rows += releases.probed(host)
    hosts = list(dict.fromkeys(row["host"] for row in rows))
    write_json(result("promises", rows, time.perf_counter() - begin, hosts=hosts), given.json)


if __name__ == "__main__":
    main()
