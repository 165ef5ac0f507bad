"""Methods that learn, on a model of flows: Stable Diffusion 3's kind, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.advunlearn.method import AdvUnlearn
from conceptguard_plugins.diffusion.few_shot.method import FewShot
from conceptguard_plugins.diffusion.spm.method import SPM
from conceptguard_plugins.diffusion.spm.train import layers_of
from tiny import clip_tokenizer, tiny_sd
from tiny_transformers import generate, tiny_flux, tiny_sd3

import conceptguard
from conceptguard.errors import SessionError
from conceptguard.making.noising import losses, noised
from conceptguard.making.text_encoders import conditions
from conceptguard.plugins import host_for

BEER = {"name": "beer", "prompts": ["beer"]}
SPM_QUICK: dict[str, Any] = {
    "steps": 6, "batch": 2, "anchors": 1, "trajectory_steps": 3, "warmup": 1, "templates": ["{}"], "preserve": ["milk"],
    "progress": False,
}  # fmt: skip


@pytest.fixture
def sd3() -> Any:
    return tiny_sd3(clip_tokenizer())


@pytest.fixture
def without_t5() -> Any:
    """As emoji-flow is, and as people without much memory load Stable Diffusion 3."""
    made = tiny_sd3(clip_tokenizer())
    made.text_encoder_3 = made.tokenizer_3 = None
    return made


def test_the_flow_of_a_picture_leads_from_noise_to_it(sd3: Any) -> None:
    denoiser = host_for(sd3).denoiser()
    clean, noise = torch.randn(2, *denoiser.shape), torch.randn(2, *denoiser.shape)
    latents, wanted = noised(denoiser, clean, noise, torch.tensor([250, 1000]))
    assert torch.equal(latents[1], noise[1]) and torch.allclose(latents[0], 0.75 * clean[0] + 0.25 * noise[0])
    assert torch.allclose(wanted, noise - clean)
    assert float(losses(wanted, wanted).max()) == 0
    found = denoiser.ddim_step(wanted[:1], latents[:1], 250, -1)
    assert torch.allclose(found, clean[:1], atol=1e-5)
    scheduler = sd3.scheduler
    scheduler.set_timesteps(6)
    step = scheduler.step(wanted[:1], scheduler.timesteps[2], latents[:1]).prev_sample
    now, then = (round(float(t)) for t in scheduler.timesteps[2:4])
    assert torch.allclose(
        denoiser.ddim_step(wanted[:1], latents[:1], now, then), step, atol=5e-3
    )  # timesteps are whole numbers here


def test_a_schedule_is_shifted_as_the_pipelines_is(sd3: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    sd3.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    times = host_for(sd3).denoiser().timesteps(8)
    assert times[0] == 1000 and times[4] == 750 and times == sorted(times, reverse=True)
    assert host_for(sd3).denoiser().timestep(0.0) == 0


def test_a_membrane_is_trained_on_a_flow_and_leaves_other_prompts_alone(sd3: Any, tmp_path: Path) -> None:
    names = layers_of(list(host_for(sd3).layers()))
    assert "transformer.context_embedder" in names and not any(".norm" in name for name in names)
    said: list[float] = []
    made = SPM.make(host_for(sd3), BEER, tmp_path, report=lambda step, loss: said.append(loss), **SPM_QUICK)
    assert len(said) == 6
    prompts = ["a beer", "a dog"]
    bare = generate(sd3, prompts, guidance_scale=1.0)
    with conceptguard.attach(sd3, {"guards": [{"method": "spm", "artifact": str(made.folder)}]}) as session:
        guarded = generate(sd3, prompts, guidance_scale=1.0)
        assert session.receipt.rows
    assert not torch.equal(guarded[0], bare[0])
    assert torch.equal(guarded[1], bare[1])
    assert torch.equal(generate(sd3, prompts, guidance_scale=1.0), bare)


def test_texts_with_gradients_are_what_the_pipeline_encodes(without_t5: Any) -> None:
    for pipe in (without_t5, tiny_sd(clip_tokenizer())):
        host = host_for(pipe)
        texts = ["a beer", "a dog, mono style"]
        ours, theirs = conditions(host.encoders(), texts, host.encode([""])), host.encode(texts)
        assert torch.allclose(ours.embeds, theirs.embeds.float(), atol=1e-5)
        if theirs.pooled is not None:
            assert ours.pooled is not None and torch.allclose(ours.pooled, theirs.pooled.float(), atol=1e-5)


def test_text_encoders_forget_on_a_flow(without_t5: Any, tmp_path: Path) -> None:
    host = host_for(without_t5)
    made = AdvUnlearn.make(
        host, BEER, tmp_path / "adv", preserve=["milk"], steps=3, warmup=1, batch=1, retain=1, attack_steps=1, views=2,
        refresh=2, pool=1, trajectory_steps=2, rank=2, templates=["{}"], progress=False,
    )  # fmt: skip
    few = FewShot.make(
        host, BEER, tmp_path / "few", shots=1, batch=1, views=2, steps=60, past=0.0, templates=["{}"],
        apart=["here is {a}"], progress=False,
    )  # fmt: skip
    for artifact in (made, few):
        with conceptguard.attach(
            without_t5, {"guards": [{"method": artifact.manifest.method, "artifact": str(artifact.folder)}]}
        ):
            pass


def test_flux_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="XL and 3"):
        host_for(tiny_flux(clip_tokenizer())).denoiser()
