"""What tests of methods that train layers ask alike: of what is drawn under a guard, and of its terms alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import clip_tokenizer
from tiny_transformers import generate, tiny_sd3

import conceptguard
from conceptguard.formats import read_artifact
from conceptguard.measuring.judges import load_judge
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Terms

Make = Callable[..., Artifact]


def weights(artifact: Artifact) -> bytes:
    """The bytes of the file that was learnt."""
    (file,) = artifact.folder.glob("*.safetensors")
    return file.read_bytes()


@contextmanager
def opened(pipe: Any, made: Artifact | None, rows: int) -> Iterator[None]:
    """With the artifact's terms open to every one of so many rows; None: with none."""
    layers = host_for(pipe).layers()
    banks = Banks(layers, [Terms(pipe, read_artifact(made, layers), Gate())] if made else [], pipe)
    try:
        for prefix in banks.prefixes():
            banks.set(prefix, torch.ones(rows, 1))
        with torch.no_grad():
            yield
    finally:
        banks.detach()


def torn(at: int, make: Callable[..., Any]) -> None:
    """Interrupt a making behind a step."""

    def report(step: int, loss: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(report=report)


def demand_gated_on_a_flow(make: Make, prompt: str) -> Artifact:
    """Made on a tiny Stable Diffusion 3 by ``make(flow)``, it acts on a prompt, and leaves another one to the bit."""
    flow = tiny_sd3(clip_tokenizer())
    made = make(flow)
    bare = generate(flow, [prompt, "a dog"], guidance_scale=1.0)
    with conceptguard.attach(flow, {"guards": [_guard(made)]}):
        guarded = generate(flow, [prompt, "a dog"], guidance_scale=1.0)
    assert not torch.equal(guarded[0], bare[0]) and torch.equal(guarded[1], bare[1])
    return made


def demand_erased(pipe: Any, made: Artifact, label: str, own: Sequence[str], other: str, least: int) -> None:
    """Three pictures of each of two prompts, of which unguarded at least so many are recognised, and guarded at most
    one; against the same prompts without the guard, another prompt's stay to the last bit."""
    prompts, judge = [*own, other], load_judge("emoji-sd")

    def drawn() -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(900 + i) for i in range(9)]
        images = pipe(prompts * 3, num_inference_steps=20, guidance_scale=3.5, generator=seeds, output_type="pt").images
        return torch.as_tensor(images)

    bare = drawn()
    with conceptguard.attach(pipe, {"guards": [_guard(made)]}):
        guarded = drawn()
    before, after = (judge.judge(images).objects for images in (bare, guarded))
    mine = [i for i in range(9) if i % 3 < 2]
    assert sum(before[i] == label for i in mine) >= least and sum(after[i] == label for i in mine) <= 1
    assert all(torch.equal(guarded[i], bare[i]) for i in (2, 5, 8))


def _guard(made: Artifact) -> dict[str, str]:
    return {"method": made.manifest.method, "artifact": str(made.folder)}
