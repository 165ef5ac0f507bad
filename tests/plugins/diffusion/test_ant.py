"""ANT, trained: its losses, the weights that it lets move, early and late steps, and what the judge sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.ant.method import ANT
from conceptguard_plugins.diffusion.ant.train import ANTMakeSettings, losses
from conceptguard_plugins.diffusion.salun import salient
from trained import demand_erased, demand_gated_on_a_flow, opened, torn, weights

import conceptguard
from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats import read_artifact
from conceptguard.generation.conditioning import stack
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"]}
QUICK: dict[str, Any] = {
    "steps": 3, "batch": 2, "trajectory_steps": 3, "templates": ["{}"], "preserve": ["milk"], "views": 2,
    "layers": "strict",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, out: Path, concept: Any = BEER, **options: Any) -> Artifact:
    return ANT.make(host_for(pipe), concept, out, **{**QUICK, "progress": False, **options})


def changes(pipe: Any, made: Artifact) -> dict[str, torch.Tensor]:
    terms = read_artifact(made, host_for(pipe).layers())
    return {name: scale * up.float() @ down.float() for name, (down, up, scale) in terms.items()}


def test_the_losses_are_the_papers() -> None:
    """Written out row by row; and the empty prompt's has a gradient, which the authors' code lacks."""
    said, empty, towards, without = torch.randn(4, 2, 4, 8, 8)
    empty.requires_grad_()
    found = losses(said, empty, towards, without, torch.tensor([True, False]), 1.5, 0.5)
    mse = torch.nn.functional.mse_loss
    early, late = (without + sign * 1.5 * (towards - without) for sign in (1, -1))
    rows = [
        mse(said[0], early[0]) + 0.5 * mse(empty[0], without[0]),
        mse(said[1], late[1]) + 0.5 * mse(empty[1], without[1]),
    ]
    assert torch.allclose(found, torch.stack(rows), rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), empty)
    assert gradient.abs().min() > 0
    (mask,) = salient([torch.tensor([[1.0, -8.0], [2.0, 3.0]])], 0.5)
    assert mask.tolist() == [[0, 1], [0, 1]], "sizes, not signs"


def test_only_weights_that_matter_for_every_prompt_move(pipe: Any, tmp_path: Path) -> None:
    """Half of each matrix for one prompt; for two, those of both."""
    one = changes(pipe, make(pipe, tmp_path / "one"))
    assert all(0.45 < float((change != 0).float().mean()) <= 0.5 for change in one.values())
    both = changes(pipe, make(pipe, tmp_path / "both", {"name": "beer", "prompts": ["beer", "skull"]}))
    moved = [float((change != 0).float().mean()) for change in both.values()]
    assert 0.2 < sum(moved) / len(moved) < 0.45
    whole = make(pipe, tmp_path / "whole", share=1.0, rank=4)
    assert all(down.shape[0] == 4 for down, _, _ in read_artifact(whole, host_for(pipe).layers()).values())


def test_late_steps_turn_away_and_early_ones_stay(pipe: Any, tmp_path: Path) -> None:
    """Along runs of the unguarded model: how much of the concept's direction is left."""
    made = make(pipe, tmp_path, steps=24, batch=4, trajectory_steps=12, layers="x", lr=1e-3, keep=20.0, early=0.2)
    host = host_for(pipe)
    denoiser, beer, nothing = host.denoiser(), host.encode(["beer"]), host.encode([""])
    noise = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(3))
    runs, times = denoiser.trajectories(noise, beer, nothing, 12, 3.0), denoiser.timesteps(12)

    def left(step: int) -> float:
        """1: all of it; 0: none; below: the other way round."""
        at = torch.full((2,), times[step])
        with torch.no_grad():
            towards, without = denoiser(runs[step].repeat(2, 1, 1, 1), at, stack(beer, nothing)).float().chunk(2)
        with opened(pipe, made, 1):
            said = denoiser(runs[step], at[:1], beer).float()
        direction = (towards - without).flatten()
        return float((said - without).flatten() @ direction / (direction @ direction))

    early, late = (sum(left(step) for step in some) / 2 for some in ((0, 1), (8, 9)))
    assert late < 0.5 and early > late + 0.3, (early, late)


def test_an_artifact_acts_without_guidance_and_a_concept_alone_as_before(pipe: Any, tmp_path: Path) -> None:
    made = make(pipe, tmp_path)

    def drawn(guard: dict[str, Any], guidance: float) -> torch.Tensor:
        with conceptguard.attach(pipe, {"guards": [{"method": "ant", **guard}]}):
            seed = torch.Generator().manual_seed(0)
            images = pipe("beer", num_inference_steps=2, guidance_scale=guidance, generator=seed, output_type="pt")
            return torch.as_tensor(images.images)

    artifact = {"artifact": str(made.folder)}
    assert drawn(artifact, 1.0).isfinite().all()
    assert not torch.equal(drawn(artifact, 3.5), drawn({"concept": BEER}, 3.5))
    with pytest.raises(conceptguard.GuardError, match="classifier-free guidance"):
        drawn({"concept": BEER}, 1.0)


def test_an_interrupted_training_ends_with_the_same_bits(pipe: Any, tmp_path: Path) -> None:
    whole = make(pipe, tmp_path / "whole")
    torn(1, partial(make, pipe, tmp_path / "torn"))
    assert weights(make(pipe, tmp_path / "torn")) == weights(whole)


def test_bad_input_is_named(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="lower lr"):
        make(pipe, tmp_path, lr=1e30)
    with pytest.raises(PolicyError, match="early"):
        make(pipe, tmp_path, early=1.0)


def test_on_a_flow(tmp_path: Path) -> None:
    demand_gated_on_a_flow(lambda flow: make(flow, tmp_path), "a beer")


@pytest.mark.slow
def test_erased_as_the_judge_sees_it(pipe: Any, tmp_path: Path) -> None:
    """Against the same prompts without the guard; another object stays to the last bit."""
    made = make(pipe, tmp_path, **{key: value for key, value in ANTMakeSettings() if key != "templates"})
    demand_erased(pipe, made, "beer", ["a beer, noto style", "fluent beer"], "a dog, noto style", 5)
