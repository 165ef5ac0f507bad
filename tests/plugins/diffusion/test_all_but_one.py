"""All but One: guidance goes to the alternative or to nothing, and the empty prompt stays where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.all_but_one import AllButOne, AllButOneMakeSettings
from conceptguard_plugins.diffusion.esd import ESD
from trained import demand_erased, demand_gated_on_a_flow, opened

from conceptguard.errors import PolicyError
from conceptguard.generation.conditioning import Encoded, stack
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"]}
SOME: dict[str, Any] = {"steps": 16, "trajectory_steps": 6, "templates": ["{}", "{a}"], "preserve": ["milk"]}

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, out: Path, method: Any = AllButOne, concept: Any = BEER, **options: Any) -> Artifact:
    return method.make(host_for(pipe), concept, out, **{**SOME, "progress": False, **options})


def said(pipe: Any, texts: list[str], made: Artifact | None = None) -> tuple[torch.Tensor, ...]:
    """What the denoiser says of each text at one noisy state, with terms that are open to every row."""
    host = host_for(pipe)
    denoiser = host.denoiser()
    asked: Encoded = stack(*(host.encode([text]) for text in texts))
    latents = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(3)).repeat(len(texts), 1, 1, 1)
    with opened(pipe, made, len(texts)):
        return denoiser(latents, torch.tensor([850] * len(texts)), asked).float().chunk(len(texts))


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).pow(2).mean())


def test_guidance_goes_nowhere_and_the_empty_prompt_drifts_less_than_under_esd(pipe: Any, tmp_path: Path) -> None:
    beer, nothing = said(pipe, ["a beer", ""])
    mine, empty = said(pipe, ["a beer", ""], make(pipe, tmp_path / "mine"))
    assert off(mine, empty) < 0.5 * off(beer, nothing)
    _, unheld = said(pipe, ["a beer", ""], make(pipe, tmp_path / "unheld", hold=0.0))
    _, theirs = said(pipe, ["a beer", ""], make(pipe, tmp_path / "esd", ESD))
    assert off(empty, nothing) < 0.5 * min(off(theirs, nothing), off(unheld, nothing))


def test_guidance_goes_to_the_alternative(pipe: Any, tmp_path: Path) -> None:
    concept = {**BEER, "replacement": "milk"}
    beer, milk, nothing = said(pipe, ["a beer", "a milk", ""])
    made = make(pipe, tmp_path, concept=concept)
    now, empty = said(pipe, ["a beer", ""], made)
    assert off(now - empty, milk - nothing) < 0.5 * off(beer - nothing, milk - nothing)
    assert off(now - empty, milk - nothing) < off(now - empty, beer - nothing)


def test_bad_input_is_named(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="place for"):
        make(pipe, tmp_path, templates=["a picture"])
    assert AllButOneMakeSettings().hold == 1.0


def test_on_a_flow(tmp_path: Path) -> None:
    demand_gated_on_a_flow(lambda flow: make(flow, tmp_path, steps=3), "a beer")


@pytest.mark.slow
def test_erased_as_the_judge_sees_it(pipe: Any, tmp_path: Path) -> None:
    """Against the same prompts without the guard; another object stays to the last bit."""
    made = make(pipe, tmp_path, **{key: value for key, value in AllButOneMakeSettings() if key != "templates"})
    demand_erased(pipe, made, "beer", ["a beer, noto style", "fluent beer"], "a dog, noto style", 5)
