"""Whole samplings under guards that change prompts, latents and features: the same latents as in diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import SHAPE
from torch import Tensor

from conceptguard import attach

SMOKING, APPLE = "a man smoking a cigarette, noto style", "a red apple, noto style"
CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "a man smoking a cigarette"]}
SAFREE = {"method": "safree", "concept": CONCEPT, "positions": "all", "schedule": False}
GUARDS = {
    "itd": {"method": "itd", "artifact": "emoji-sd/itd/ten-objects", "concept": CONCEPT},
    "itd reconstructed": {"method": "itd", "artifact": "emoji-sd/itd/ten-objects", "reconstruct": True,
                          "concept": CONCEPT},
    "astar": {"method": "astar", "concept": CONCEPT},
    "magicmix": {"method": "magicmix", "concept": {**CONCEPT, "replacement": "flower"}},
    "magicmix negative": {"method": "magicmix", "concept": CONCEPT, "negative": True},
    "reattention": {**SAFREE, "reattention": True},
    "safree negative": {**SAFREE, "negative_prompt": True},
}  # fmt: skip


def noise() -> Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def schedule(pipe: Any) -> Any:
    """Euler steps of diffusers at timesteps that are whole numbers."""
    from diffusers import EulerDiscreteScheduler

    found = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    found.set_timesteps(6)
    return found


@pytest.fixture(scope="module")
def unguarded(bare: Any, schedule: Any) -> Tensor:
    """What every guard is held against."""
    return in_comfyui(bare.parts.model, bare.encode(SMOKING), bare.encode(""), schedule)


@torch.inference_mode()
def in_comfyui(model: Any, positive: Any, negative: Any, schedule: Any) -> Tensor:
    """Latents after ComfyUI's own Euler steps from the same noise at the same sigmas."""
    import comfy.k_diffusion.sampling
    import comfy.samplers

    found = []

    def euler(call: Any, start: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        start = noise() * schedule.init_noise_sigma
        found.append(comfy.k_diffusion.sampling.sample_euler(call, start, schedule.sigmas, **options))
        return found[0]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(3.5)
    guider.sample(noise() * 0, noise() * 0, comfy.samplers.KSAMPLER(euler), schedule.sigmas, disable_pbar=True)
    return found[0]


def in_diffusers(pipe: Any, schedule: Any, policy: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(pipe, "scheduler", type(schedule).from_config(schedule.config))
    with attach(pipe, policy):
        return pipe(SMOKING, latents=noise(), num_inference_steps=6, guidance_scale=3.5, output_type="latent").images


@pytest.mark.parametrize("name", GUARDS)
def test_the_same_latents(
    name: str, parts: Any, bare: Any, unguarded: Tensor, pipe: Any, schedule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = attach((parts.model, parts.clip), {"guards": [GUARDS[name]]})
    session.host.candidates = lambda: [SMOKING, ""]
    mine = in_comfyui(session.host.guarded(), bare.encode(SMOKING), bare.encode(""), schedule)
    theirs = in_diffusers(pipe, schedule, session.policy, monkeypatch)
    assert (mine - theirs).abs().max() < 1e-4
    assert (mine - unguarded).abs().max() > 0.3, "this guard did nothing"
    assert session.receipt.opened
