"""``conceptguard astar``: a prompt whose concepts are kept apart while it is drawn."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from conceptguard.cli.options import DEVICE, DTYPE, GUIDANCE, IMAGES, JSON, MODEL, OUT, SEED, STEPS, split


def astar(
    prompt: str = typer.Option(..., "--prompt", "-p", metavar="TEXT", help="What to draw."),
    concepts: str | None = typer.Option(
        None, metavar="A,B", help="What to keep apart: words of the prompt; default: everything that it names."
    ),
    scale: float = typer.Option(0.05, min=0, help="How far the latents go at each step; 0 only measures."),
    segregation: bool = typer.Option(True, help="Keep the concepts apart."),
    retention: bool = typer.Option(True, help="Let each keep what it had a step before."),
    compare: bool = typer.Option(False, help="Draw it without A-STAR as well, in files that end in -without."),
    model: str = MODEL,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = SEED,
    images: int = IMAGES,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    out: Path = OUT,
    json: str | None = JSON,
) -> None:
    """Draw several things so that none is lost (A-STAR).

    Before each step the latents move so that the attention maps of the concepts overlap less and each keeps what it
    had. That takes another pass of the denoiser, forward and back, at every step. "overlap" is the mean over the steps
    of sum(min) / sum(a + b) of two concepts' maps: 0 is apart, 0.5 the same.

    \b
    conceptguard astar --prompt "a dog and a cat, noto style" --concepts dog,cat --compare --out pictures
    conceptguard astar --prompt "a dog and a cat" --no-retention --json astar.json

    As a guard: {method: astar, concept: {name: dog, prompts: [dog]}} keeps it away from the rest of every prompt that
    names it.
    """
    from conceptguard.cli.loading import drawing
    from conceptguard.cli.output import report
    from conceptguard.errors import ConceptGuardError, PolicyError
    from conceptguard.policy_file import load_policy

    from ..command import draw, files, save
    from .words import words_of

    begin = time.perf_counter()
    apart = list(dict.fromkeys(split(concepts) if concepts is not None else words_of(prompt)))
    if len(apart) < 2:
        raise PolicyError(
            f"{', '.join(map(repr, apart)) or 'nothing'} cannot be kept apart from anything: give a prompt that names "
            "several things, or --concepts with two of its words or more, e.g. dog,cat"
        )
    if concepts is not None and (missing := [c for c in apart if c.lower() not in prompt.lower()]):
        raise PolicyError(f"{', '.join(map(repr, missing))} not in the prompt {prompt!r}: name its own words")
    if not (segregation or retention):
        raise PolicyError("--no-segregation and --no-retention together leave nothing to do: drop one of them")
    seeds = [seed + i for i in range(images)]
    paths = files(out, prompt, seeds)
    guard = {"method": "astar", "gate": "always", "concept": {"name": ", ".join(apart), "prompts": apart},
             "erase": False, "segregation": segregation, "retention": retention}  # fmt: skip
    pipe = drawing(model, device, dtype)
    rows = []
    for value in [0.0, scale] if compare and scale else [scale]:
        policy = load_policy({"name": "astar", "guards": [{**guard, "scale": value}]})
        drawn, session, receipt = draw(pipe, policy, prompt, seeds, steps, guidance)
        where = paths if value or not compare else [p.with_name(f"{p.stem}-without.png") for p in paths]
        try:
            save(drawn, where)
        except OSError as error:
            raise ConceptGuardError(f"--out {out}: cannot be written ({error.strerror})") from error
        towards = [row for row, its in enumerate(receipt.rows) if its.branch == "conditional"]
        for i, path in enumerate(where):
            overlaps = session.methods[0].overlaps[towards[i]]  # type: ignore[attr-defined]
            mean = sum(overlaps) / len(overlaps)
            rows.append({"file": str(path), "prompt": prompt, "seed": seeds[i], "scale": value,
                         "overlap": round(mean, 4), "last_overlap": round(overlaps[-1], 4),
                         "seconds": round(receipt.seconds, 2)})  # fmt: skip
    report("astar", rows, time.perf_counter() - begin, json, str(pipe.device), model=model, concepts=apart,
           receipt=receipt.to_dict())  # fmt: skip
