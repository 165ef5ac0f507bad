"""Doco: a concept's predictions come to look like the anchor's, to a discriminator that was trained to tell them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.doco.discriminator import ANCHOR, CONCEPT, patch_discriminator, right, taken_for
from conceptguard_plugins.diffusion.doco.method import Doco, DocoMakeSettings
from trained import demand_erased, demand_gated_on_a_flow, torn, weights

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats import read_artifact
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"], "replacement": "milk"}
SOME: dict[str, Any] = {
    "steps": 4, "warmup": 2, "shots": 2, "batch": 2, "width": 8, "templates": ["{}", "{a}"], "preserve": ["dog"],
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, out: Path, concept: Any = BEER, **options: Any) -> Artifact:
    return Doco.make(host_for(pipe), concept, out, **{**SOME, "progress": False, **options})


def test_a_discriminator_learns_to_tell_and_says_how_well() -> None:
    torch.manual_seed(0)
    judge = patch_discriminator(4, 8)
    assert judge(torch.zeros(2, 4, 16, 16)).shape == (2, 1, 4, 4)
    noise = torch.randn(8, 4, 16, 16)
    before = taken_for(judge(noise), ANCHOR) + taken_for(judge(noise + 1), CONCEPT)
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        loss = taken_for(judge(noise), ANCHOR) + taken_for(judge(noise + 1), CONCEPT)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2 * float(before.detach()) and right(judge(noise), judge(noise + 1)) > 0.95
    assert right(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0])) == 0.5


def test_nothing_is_learnt_while_the_discriminator_warms_up(pipe: Any, tmp_path: Path) -> None:
    """Then Adam's first step moves every number by the rate."""

    def farthest(warmup: int, out: Path) -> float:
        terms = read_artifact(make(pipe, out, steps=3, warmup=warmup, lr=0.01), host_for(pipe).layers())
        return max(float(up.abs().max()) for _, up, _ in terms.values())

    assert farthest(2, tmp_path / "warm") == pytest.approx(0.01, rel=0.02)
    assert farthest(0, tmp_path / "cold") > 0.02


def test_an_interrupted_training_ends_with_the_same_bits(pipe: Any, tmp_path: Path) -> None:
    """Discriminator included: what it had learnt is taken up too."""
    whole = make(pipe, tmp_path / "whole")
    torn(2, partial(make, pipe, tmp_path / "torn"))
    assert weights(make(pipe, tmp_path / "torn")) == weights(whole)


def test_bad_input_is_named(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="lower lr"):
        make(pipe, tmp_path, lr=1e30)
    with pytest.raises(PolicyError, match="batch"):
        make(pipe, tmp_path, batch=1)
    with pytest.raises(PolicyError, match="warmup 4 leaves none of 4 steps"):
        make(pipe, tmp_path, warmup=4)


def test_on_a_flow(tmp_path: Path) -> None:
    made = demand_gated_on_a_flow(lambda flow: make(flow, tmp_path, steps=5, lr=0.05), "a beer")
    assert made.manifest.made["anchor"] == "milk"


@pytest.mark.slow
def test_erased_as_the_judge_sees_it(pipe: Any, tmp_path: Path) -> None:
    """Against the same prompts without the guard; another object stays to the last bit."""
    made = make(pipe, tmp_path, **{key: value for key, value in DocoMakeSettings() if key != "templates"})
    demand_erased(pipe, made, "beer", ["a beer, noto style", "fluent beer"], "a dog, noto style", 5)
