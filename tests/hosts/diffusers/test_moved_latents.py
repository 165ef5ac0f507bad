"""Latents that a guard moves: the denoiser and the sampler go on from them as if the caller had held them all along."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from tiny import clip_tokenizer, generate
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.denoising import Conditions
from conceptguard.hosts.diffusers.sampler_state import moved
from conceptguard.testing.kit_guards import offered

SCHEDULERS = ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep",
              "UniPCMultistep", "HeunDiscrete", "LMSDiscrete"]  # fmt: skip


class Nudge(Method):
    """Adds ``by`` at the first step to what the rows of a cigarette are denoised from, and notes what came."""

    name = "nudge"
    needs = "nothing"
    by: torch.Tensor
    came: list[torch.Tensor] = []

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        assert conditions.latents is not None
        rows = [row for row in conditions.towards if "cigarette" in (conditions.texts[row] or "")]
        if rows and conditions.moment.step == 0:
            conditions.move(rows, self.by.expand(len(rows), *self.by.shape[1:]))
        self.came.append(conditions.latents)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_from_moved_latents_is_one_from_other_latents(tiny: Any, name: str) -> None:
    """For every kind of sampler: with a history, of second order, with noise of its own, with another scale."""
    tiny.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(tiny.scheduler.config)
    tiny.scheduler.set_timesteps(4)
    given, by = noise(1, 4, 8, 8), 0.3 * noise(1, 4, 8, 8, seed=2)
    first = tiny.scheduler.scale_model_input(given * tiny.scheduler.init_noise_sigma, tiny.scheduler.timesteps[0])
    Nudge.by = by * float(first.std() / given.std())  # in the units of the denoiser's input

    def draw(latents: torch.Tensor, prompt: str = "a cigarette") -> torch.Tensor:
        return generate(tiny, prompt, latents=latents, num_inference_steps=4)

    other, bare, unrelated = draw(given + by), draw(given), draw(given, "a red apple")
    with offered(Nudge) as nudge, conceptguard.attach(tiny, {"guards": [nudge]}):
        got = draw(given)
        assert torch.equal(draw(given, "a red apple"), unrelated)
    assert torch.allclose(got, other, atol=1e-3 * float(other.abs().max()))
    assert not torch.allclose(got, bare, atol=1e-2)
    assert "step" not in vars(tiny.scheduler)


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux, tiny_wan])
def test_where_branches_come_one_by_one_all_of_them_move(make: Any) -> None:
    """Wan asks for the prompt and for nothing in two calls of one step; FLUX does with a negative prompt."""
    pipe = make(clip_tokenizer())
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 4.0}
    options |= {"true_cfg_scale": 4.0, "negative_prompt": "blurry"} if make is tiny_flux else {}
    options |= {"num_frames": 5, "height": 16, "width": 16} if make is tiny_wan else {}

    def draw(latents: torch.Tensor | None) -> torch.Tensor:
        out = pipe(prompt="a cigarette", latents=latents, generator=torch.Generator().manual_seed(0), **options)
        return out[0] if make is tiny_wan else out.images

    Nudge.came.clear()
    with offered(Nudge) as nudge, conceptguard.attach(pipe, {"guards": [nudge]}):
        Nudge.by = torch.zeros(1)
        draw(None)
        given = Nudge.came[0][:1].clone()
        Nudge.by = 0.3 * noise(*given.shape, seed=2)
        got = draw(given)
    assert torch.allclose(got, draw(given + Nudge.by), atol=1e-4) and not torch.allclose(got, draw(given), atol=1e-2)


def test_rows_of_a_batch_move_by_themselves(tiny: Any) -> None:
    Nudge.by = 0.3 * noise(1, 4, 8, 8)
    prompts = ["a red apple", "a cigarette", "a small dog"]
    bare = generate(tiny, prompts)
    with offered(Nudge) as nudge, conceptguard.attach(tiny, {"guards": [nudge]}):
        got, alone = generate(tiny, prompts), generate(tiny, "a cigarette", seeds=[1])
    assert torch.equal(got[0], bare[0]) and torch.equal(got[2], bare[2])
    assert torch.allclose(got[1], alone[0], atol=1e-3) and not torch.allclose(got[1], bare[1], atol=1e-2)


def own_loop(pipe: Any, step: Any, prompt: str = "a cigarette") -> torch.Tensor:
    """A caller's own: two composed predictions, one call each. Latents [1, 4, 8, 8]."""
    embeds = pipe.encode_prompt([prompt, "a bridge"], "cpu", 1, False)[0]
    pipe.scheduler.set_timesteps(3)
    latents = noise(1, 4, 8, 8)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            a, b = (pipe.unet(latents, t, encoder_hidden_states=e[None]).sample for e in embeds)
            latents = step(2 * a - b, t, latents)
    return latents


def test_a_callers_own_loop(tiny: Any) -> None:
    """With the pipeline's scheduler it goes on from the moved latents; a sampler that cannot be reached is an error."""
    Nudge.by = 0.3 * noise(1, 4, 8, 8)

    def step(prediction: torch.Tensor, t: Any, latents: torch.Tensor) -> torch.Tensor:
        return tiny.scheduler.step(prediction, t, latents).prev_sample  # type: ignore[no-any-return]

    bare = own_loop(tiny, step)
    with offered(Nudge) as nudge, conceptguard.attach(tiny, {"guards": [nudge]}):
        assert not torch.allclose(own_loop(tiny, step), bare, atol=1e-2)
        with pytest.raises(GuardError, match=r"pipe\.scheduler did not step from them"):
            own_loop(tiny, lambda prediction, t, latents: latents - 0.1 * prediction)
        own_loop(tiny, lambda prediction, t, latents: latents - 0.1 * prediction, "a red apple")
    assert "step" not in vars(tiny.scheduler)


def test_nothing_stays_on_the_scheduler_after_an_exception(tiny: Any) -> None:
    Nudge.by = 0.3 * noise(1, 4, 8, 8)

    class Boom(Exception):
        pass

    def stop(*_: Any) -> Any:
        raise Boom

    mine = tiny.scheduler.step
    tiny.scheduler.step = mine  # somebody else's, who was there first
    handle = tiny.unet.register_forward_hook(stop)
    with offered(Nudge) as nudge, conceptguard.attach(tiny, {"guards": [nudge]}), pytest.raises(Boom):
        generate(tiny, "a cigarette")
    handle.remove()
    assert vars(tiny.scheduler)["step"] is mine


def test_latents_that_are_not_the_samplers_are_refused() -> None:
    given, state = noise(2, 4, 8, 8), noise(1, 4, 8, 8, seed=5)
    with pytest.raises(GuardError, match="cannot work in this pipeline"):
        moved(state, [(given, torch.ones_like(given))])
