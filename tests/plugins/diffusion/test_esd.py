"""ESD: which layers, what they are taught, that they learn it, and that an interrupted training ends the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.esd import ESD, ESDMakeSettings, goal
from conceptguard_plugins.diffusion.trained_layers import layers_of
from tiny import clip_tokenizer
from tiny_transformers import tiny_sd3
from trained import demand_erased, demand_gated_on_a_flow, opened, torn, weights

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.generation.conditioning import stack
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"]}
QUICK: dict[str, Any] = {"steps": 5, "batch": 2, "trajectory_steps": 3, "templates": ["{}"], "preserve": ["milk"]}

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, out: Path, **options: Any) -> Artifact:
    return ESD.make(host_for(pipe), BEER, out, **{**QUICK, "progress": False, **options})


def test_the_goal_is_the_papers_and_the_newer_codes() -> None:
    towards, nothing = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    assert torch.allclose(goal(towards, nothing, 1.0), towards - 2 * (towards - nothing), atol=1e-6)
    assert torch.equal(goal(towards, nothing, 0.0), nothing)


def test_layers_that_read_text_and_all_others(pipe: Any) -> None:
    shapes = host_for(pipe).layers().shapes()
    x, u, strict = (set(layers_of(shapes, which)) for which in ("x", "u", "strict"))
    assert strict < x and not x & u
    assert {name.rsplit(".", 1)[1] for name in strict} == {"to_k", "to_v"} and all(".attn2." in name for name in x)
    assert any(".attn1." in name for name in u) and not any(name.startswith("text_encoder") for name in x | u)
    x = set(layers_of(host_for(tiny_sd3(clip_tokenizer())).layers().shapes(), "x"))
    assert "transformer.context_embedder" in x and any(name.endswith(".add_k_proj") for name in x)
    with pytest.raises(ArtifactError, match="no layers 'x'"):
        layers_of({"text_encoder.q": (8, 8)}, "x")


def test_an_interrupted_training_ends_with_the_same_bits(pipe: Any, tmp_path: Path) -> None:
    whole = make(pipe, tmp_path / "whole")

    torn(2, partial(make, pipe, tmp_path / "torn"))
    again = make(pipe, tmp_path / "torn")
    assert weights(again) == weights(whole)
    other = make(pipe, tmp_path / "frozen", sampler="frozen")
    assert weights(other) != weights(whole)


def test_the_concept_goes_the_other_way_and_other_prompts_stay(pipe: Any, tmp_path: Path) -> None:
    made = make(pipe, tmp_path, steps=16, batch=4, trajectory_steps=6, templates=["{}", "{a}"])
    host = host_for(pipe)
    denoiser, asked = host.denoiser(), stack(host.encode(["a beer"]), host.encode([""]))
    latents = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(3)).repeat(2, 1, 1, 1)
    with torch.no_grad():
        towards, nothing = denoiser(latents, torch.tensor([850, 850]), asked).chunk(2)

    with opened(pipe, made, 1):
        said = denoiser(latents[:1], torch.tensor([850]), host.encode(["a beer"]))
    before, after = ((one - goal(towards, nothing, 1.0)).pow(2).mean() for one in (towards, said))
    assert float(after) < 0.6 * float(before)


def test_bad_input_is_named(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="place for"):
        make(pipe, tmp_path, templates=["a picture"])
    with pytest.raises(ArtifactError, match="lower lr"):
        make(pipe, tmp_path, lr=1e30)
    assert ESDMakeSettings().layers == "x"


@pytest.mark.slow
def test_erased_as_the_judge_sees_it(pipe: Any, tmp_path: Path) -> None:
    """Against the same prompts without the guard; another object stays to the last bit."""
    made = make(pipe, tmp_path, **{key: value for key, value in ESDMakeSettings() if key != "templates"})
    demand_erased(pipe, made, "beer", ["a beer, noto style", "fluent beer"], "a dog, noto style", 5)


def test_on_a_flow(tmp_path: Path) -> None:
    demand_gated_on_a_flow(lambda flow: make(flow, tmp_path), "a beer")
