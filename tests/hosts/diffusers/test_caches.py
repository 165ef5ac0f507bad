"""Caches inside the denoiser: guards neither read nor fill them, and leave nothing in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from random_artifacts import RandomTerms
from test_families import OPENS, UNRELATED, policy
from tiny_transformers import generate, tiny_flux, tiny_wan

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError, SessionError
from conceptguard.generation.denoising import Step
from conceptguard.testing.kit_guards import Failing, offered
from conceptguard.testing.traces import differences, snapshot

STEPS = 5
EVERY = (-1, 1001)
CACHES: dict[str, Callable[[Any], Any]] = {
    "first block": lambda pipe: FirstBlockCacheConfig(threshold=0.5),
    "mag": lambda pipe: MagCacheConfig(
        num_inference_steps=STEPS, threshold=0.5, max_skip_steps=2, retention_ratio=0.1, mag_ratios=torch.ones(STEPS)
    ),
    "taylor": lambda pipe: TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32
    ),
    "pyramid": lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=EVERY,
        cross_attention_block_skip_range=2, cross_attention_timestep_skip_range=EVERY,
        current_timestep_callback=lambda: 500,
    ),
    "faster": lambda pipe: FasterCacheConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 700),
        is_guidance_distilled=True, current_timestep_callback=lambda: pipe._current_timestep,
        attention_weight_callback=lambda _: 0.5,
    ),
}  # fmt: skip
BY_STEP = ("mag", "taylor", "pyramid")


def cached(make: Callable[..., Any], cache: str, tokenizer: Any) -> Any:
    pipe = make(tokenizer)
    pipe.transformer.enable_cache(CACHES[cache](pipe))
    return pipe


def draw(pipe: Any, prompts: list[str], **call: Any) -> torch.Tensor:
    if hasattr(pipe, "text_encoder_2"):
        call = {"negative_prompt": [""] * len(prompts), "true_cfg_scale": 3.0, **call}
    return generate(pipe, prompts, num_inference_steps=STEPS, **call)


class Measures(Method):
    """Asks the model for one more prediction, and changes nothing."""

    name = "measures"
    needs = "concept"
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        assert step.denoise is not None
        told = step.denoise(self.host.encode([OPENS], 32), [0])  # type: ignore[call-arg]
        self.found.append((step.latents[:1].clone(), torch.as_tensor(step.timestep)[:1].clone(), told.clone()))


@pytest.mark.parametrize("make,cache", [
    *((tiny_flux, cache) for cache in ("first block", *BY_STEP)), (tiny_wan, "first block"), (tiny_wan, "pyramid"),
])  # fmt: skip
def test_a_guard_that_only_measures_changes_nothing(make: Callable[..., Any], cache: str, tokenizer: Any) -> None:
    """And what it measures is the model's own prediction."""
    pipe = cached(make, cache, tokenizer)
    bare = draw(pipe, [UNRELATED])
    assert not torch.equal(bare, draw(make(tokenizer), [UNRELATED])), "the cache has to act"
    Measures.found.clear()
    with offered(Measures), conceptguard.attach(pipe, policy("measures")) as guard:
        assert torch.equal(draw(pipe, [UNRELATED]), bare)
        concept = guard.host.encode([OPENS], 32)
    if make is tiny_wan:
        plain = make(tokenizer).transformer
        for latents, time, told in Measures.found:
            with torch.no_grad():
                assert torch.equal(plain(latents, time, concept.embeds, return_dict=False)[0], told)
    assert len(Measures.found) == 2 * STEPS


@pytest.mark.parametrize("make,cache,method", [
    *((tiny_flux, cache, method) for cache in CACHES for method in ("random-terms", "negative_guidance")),
    (tiny_flux, "mag", "safree"), (tiny_wan, "first block", "random-terms"), (tiny_wan, "pyramid", "random-terms"),
])  # fmt: skip
def test_guards_act(make: Callable[..., Any], cache: str, method: str, tokenizer: Any) -> None:
    pipe = cached(make, cache, tokenizer)
    bare, unrelated = draw(pipe, [OPENS]), draw(pipe, [UNRELATED])
    settings = {"alpha": 0.0, "schedule": False} if method == "safree" else {}
    before = snapshot(pipe)
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method, **settings)) as guard:
        got = draw(pipe, [OPENS])
        assert guard.receipt.opened
        assert torch.equal(draw(pipe, [UNRELATED]), unrelated)
    assert not torch.allclose(got, bare, atol=1e-3)
    assert not differences(before, snapshot(pipe))
    assert torch.equal(draw(pipe, [OPENS]), bare)


@pytest.mark.parametrize("cache", BY_STEP)
@pytest.mark.parametrize("method", ["random-terms", "negative_guidance"])
def test_a_row_beside_a_guarded_one_does_not_move(cache: str, method: str, tokenizer: Any) -> None:
    pipe = cached(tiny_flux, cache, tokenizer)
    bare = draw(pipe, [UNRELATED, OPENS])
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method)):
        got = draw(pipe, [UNRELATED, OPENS])
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)


@pytest.mark.parametrize("method", ["random-terms", "safree", "negative_guidance"])
def test_a_cache_that_decides_for_all_rows_is_refused(method: str, tokenizer: Any) -> None:
    """Where something is guarded and there is another picture to be moved by it; alone it is not."""
    pipe = cached(tiny_flux, "first block", tokenizer)
    bare = draw(pipe, [UNRELATED, "a dog"])
    settings = {"alpha": 0.0, "schedule": False} if method == "safree" else {}
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method, **settings)):
        assert torch.equal(draw(pipe, [UNRELATED, "a dog"]), bare)
        with pytest.raises(GuardError, match="first block cache decides for all pictures"):
            draw(pipe, [UNRELATED, OPENS])
        draw(pipe, [OPENS])
    assert torch.equal(draw(pipe, [UNRELATED, "a dog"]), bare)


@pytest.mark.parametrize("cache", ["first block", *BY_STEP])
def test_a_run_that_raises_leaves_no_cache_behind(cache: str, tokenizer: Any) -> None:
    """In a pipeline's call, in a later step of it, and in a loop of the caller's own."""
    pipe = cached(tiny_flux, cache, tokenizer)
    bare = draw(pipe, [UNRELATED])

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with offered(Failing) as guard, conceptguard.attach(pipe, {"guards": [guard]}), pytest.raises(GuardError):
        draw(pipe, [OPENS])
    assert torch.equal(draw(pipe, [UNRELATED]), bare)
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")):
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, [OPENS], callback_on_step_end=stop)
        assert torch.equal(draw(pipe, [UNRELATED]), bare)
        state = pipe.encode_prompt(OPENS, None, max_sequence_length=32)
        with torch.no_grad(), pipe.transformer.cache_context("cond"):
            pipe.transformer(
                torch.zeros(1, 64, 16), state[0], state[1], torch.tensor([0.9]), torch.zeros(64, 3), state[2],
                torch.tensor([3.0]),
            )  # fmt: skip
    assert torch.equal(draw(pipe, [UNRELATED]), bare)


def test_what_was_kept_of_another_prompt_does_not_stand_in(tokenizer: Any) -> None:
    """A prompt that comes in the middle of a generation is guarded from its first step on."""
    pipe = cached(tiny_flux, "mag", tokenizer)
    ran: list[int] = []
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")) as guard:
        embeds = pipe.encode_prompt(OPENS, None, max_sequence_length=32)[0]
        layer = pipe.transformer.single_transformer_blocks[0].attn.to_q
        handle = layer.register_forward_hook(lambda *_: ran.append(guard.receipt.steps))

        def change(pipe: Any, i: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            return {"prompt_embeds": embeds} if i == 1 else {}

        generate(pipe, [UNRELATED], num_inference_steps=STEPS, callback_on_step_end=change)
        handle.remove()
        assert ran[:2] == [0, 2] and guard.receipt.acts[0].steps == [2, 3, 4]


def test_what_another_branch_left_is_no_guard(tokenizer: Any) -> None:
    """Pyramid attention broadcast has one state for all branches of a pipeline that calls for each."""
    pipe = cached(tiny_wan, "pyramid", tokenizer)
    told = pytest.raises(GuardError, match="pyramid attention broadcast stood in for it")
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")), told:
        draw(pipe, [UNRELATED], negative_prompt=OPENS)


def test_faster_cache(tokenizer: Any) -> None:
    pipe = tiny_flux(tokenizer)
    pipe.transformer.enable_cache(FasterCacheConfig(current_timestep_callback=lambda: 500))
    before = snapshot(pipe)
    with pytest.raises(SessionError, match="FasterCache leaves the unconditional rows out"):
        conceptguard.attach(pipe, policy("safree"))
    assert not differences(before, snapshot(pipe))
    pipe.transformer.disable_cache()
    with conceptguard.attach(pipe, policy("safree")):
        draw(pipe, [UNRELATED])
        pipe.transformer.enable_cache(FasterCacheConfig(current_timestep_callback=lambda: 500))
        with pytest.raises(SessionError, match="FasterCache leaves the unconditional rows out"):
            draw(pipe, [UNRELATED])
