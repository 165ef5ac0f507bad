"""How far terms that were trained move what a denoiser says, with their gate open to every prompt.

Asked at states of unguarded runs: what is left of guidance towards the concept, in the first step and behind the first
two; and how far answers to the empty prompt and to prompts for other things move, as shares of guidance as it was.

    python -m tools.drift --artifacts out/trained --concept beer --json FILE
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conceptguard import load_model
from conceptguard.formats import read_artifact
from conceptguard.generation.conditioning import pick, stack
from conceptguard.measuring.suite import load_suite
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact, Registry
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .rows import parser_of, write_rows

STEPS, GUIDANCE, SEED = 12, 3.5, 8_700_000
SETTLED = 2  # steps behind which a picture's structure is there


class Said(NamedTuple):
    """Of the concept, of nothing and of other things, at every step: [steps, runs, channels, h, w] each."""

    concept: Tensor
    nothing: Tensor
    others: Tensor


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a registry")
    parser.add_argument("--concept", default="beer")
    parser.add_argument("--n", type=int, default=8, help="runs, each of its own seed")
    parser.add_argument(
        "--wordings", choices=("judge", "tune"), default="judge", help="tune: those to choose settings by"
    )
    asked = parser.parse_args()
    write_rows("drift", rows(asked.artifacts, asked.concept, asked.n, asked.wordings), asked.json)


@torch.no_grad()
def rows(artifacts: Path, concept: str, n: int, worded: str = "judge") -> Iterator[dict[str, Any]]:
    """One for each method that has an artifact of the concept. Prompts are those that judge, or those that tune, and
    nothing else."""
    suite, host = load_suite("emoji-sd"), host_for(load_model("emoji-sd"))
    denoiser, layers, registry = host.denoiser(), host.layers(), Registry([artifacts])
    wordings = suite.judge_templates_plain if worded == "judge" else suite.tuning_templates_plain
    told = [suite.object(concept), *(it for it in suite.objects if it.group == "other")]
    texts = [[wordings[i % len(wordings)].format(thing=it.thing, noun=it.name) for i, it in enumerate(them)]
             for them in ([told[0]] * n, told[1 : 1 + n])]  # fmt: skip
    about, others = map(host.encode, texts)
    nothing = pick(host.encode([""]), [0] * n)
    noise = torch.randn(n, *denoiser.shape, generator=torch.Generator().manual_seed(SEED))
    runs = denoiser.trajectories(noise, about, nothing, STEPS, GUIDANCE)
    everything = stack(about, nothing, others)

    def said() -> Said:
        found = [denoiser(states.repeat(3, 1, 1, 1), torch.full((3 * n,), at), everything).float().chunk(3)
                 for states, at in zip(runs, denoiser.timesteps(STEPS), strict=True)]  # fmt: skip
        return Said(*map(torch.stack, zip(*found)))

    before = said()
    for entry in registry.entries():
        if entry.name == concept:
            with opened(host, registry.load(entry.ref), layers, 3 * n):
                yield {"method": entry.method, "concept": concept, **moved(before, said()), "n": n}


@contextmanager
def opened(owner: object, made: Artifact, layers: LayerIndex, count: int) -> Iterator[None]:
    """With the artifact's terms open to every one of so many rows."""
    banks = Banks(layers, [Terms(owner, read_artifact(made, layers), Gate())], owner)
    try:
        for prefix in banks.prefixes():
            banks.set(prefix, torch.ones(count, 1))
        yield
    finally:
        banks.detach()


def moved(before: Said, after: Said) -> dict[str, float]:
    """The columns, of what was said without and with the terms."""
    towards = before.concept - before.nothing

    def left(steps: slice) -> float:
        now = (after.concept - after.nothing)[steps]
        return float((now * towards[steps]).sum() / towards[steps].pow(2).sum())

    def off(now: Tensor, was: Tensor) -> float:
        return float((now - was).pow(2).mean().sqrt() / towards.pow(2).mean().sqrt())

    shares = {
        "left_first": left(slice(1)), "left": left(slice(SETTLED, None)),
        "nothing": off(after.nothing, before.nothing), "others": off(after.others, before.others),
    }  # fmt: skip
    return {name: round(share, 4) for name, share in shares.items()}


if __name__ == "__main__":
    main()
