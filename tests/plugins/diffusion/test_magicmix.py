"""MagicMix: a reference loop draws the same, the layout is the prompt's and the content the replacement's."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from tiny import clip_tokenizer, generate, tiny_sdxl
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan
from torch import Tensor

import conceptguard
from conceptguard.errors import GuardError, PolicyError
from conceptguard.hosts.denoising.noise_levels import NoiseLevels

PROMPT, CONTENT = "a cigarette on a table", "a bridge on a table"
STEPS, KMAX, KMIN, NU, SCALE = 10, 0.6, 0.3, 0.5, 7.5


def policy(*more: dict[str, Any], **guard: Any) -> dict[str, Any]:
    concept = {"name": "cigarette", "prompts": ["a cigarette", "smoking"], "replacement": "a bridge"}
    return {"guards": [{"method": "magicmix", "concept": concept, **guard}, *more]}


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete"])
def test_noise_levels_are_the_schedulers(tiny: Any, name: str, kind: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler").from_config(tiny.scheduler.config, prediction_type=kind)
    scheduler.set_timesteps(7)
    clean, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=2)
    levels = NoiseLevels(scheduler)
    for t in scheduler.timesteps[1:-1]:
        x = scheduler.scale_model_input(scheduler.add_noise(clean, eps, t[None]), t)
        scheduler._step_index = None
        signal, spread = levels.at(t)
        assert torch.allclose(signal * clean + spread * eps, x, atol=1e-3)
        told = {"epsilon": eps, "v_prediction": signal * eps - spread * clean, "sample": clean}[kind]
        found = levels.parts(x, told, t)
        assert torch.allclose(found[0], clean, atol=1e-2) and torch.allclose(found[1], eps, atol=1e-2)


def test_noise_levels_of_flow_matching() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    clean, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=2)
    levels = NoiseLevels(scheduler)
    for t in scheduler.timesteps:
        x = scheduler.scale_noise(clean, t[None], eps)
        found = levels.parts(x, eps - clean, t)
        assert torch.allclose(found[0], clean, atol=1e-5) and torch.allclose(found[1], eps, atol=1e-5)


def reference(pipe: Any, latents: Tensor, moments: list[str]) -> Tensor:
    """The paper's loop, written out for DDIM: the layout's prompt, the mixture, the content alone."""
    embeds = pipe.encode_prompt([PROMPT, CONTENT], "cpu", 1, True)
    alphas = pipe.scheduler.alphas_cumprod
    pipe.scheduler.set_timesteps(STEPS)
    layout: tuple[Tensor, Tensor] | None = None
    for t in pipe.scheduler.timesteps:
        early = t / 1000 > KMAX
        signal, spread = alphas[t] ** 0.5, (1 - alphas[t]) ** 0.5
        if not early and t / 1000 >= KMIN:
            assert layout is not None
            latents = NU * latents + (1 - NU) * (signal * layout[0] + spread * layout[1])
        which = 0 if early else 1
        both = torch.stack([embeds[1][which], embeds[0][which]])
        with torch.no_grad():
            u, c = pipe.unet(latents.expand(2, -1, -1, -1), t, encoder_hidden_states=both).sample.split(1)
        eps = u + SCALE * (c - u)
        layout = ((latents - spread * eps) / signal, eps) if early else layout
        latents = pipe.scheduler.step(eps, t, latents).prev_sample
        moments.append("layout" if early else "mixed" if t / 1000 >= KMIN else "content")
    return latents


def test_it_draws_what_the_papers_loop_draws(tiny: Any) -> None:
    given, moments = noise(1, 4, 8, 8), []
    want = reference(tiny, given, moments)
    assert {*moments} == {"layout", "mixed", "content"}
    seen: list[Tensor] = []
    bare: list[Tensor] = []

    def keep(into: list[Tensor]) -> Any:
        return lambda pipe, i, t, values: into.append(values["latents"].clone()) or values

    options = {"latents": given, "num_inference_steps": STEPS, "guidance_scale": SCALE}
    generate(tiny, PROMPT, callback_on_step_end=keep(bare), **options)
    with conceptguard.attach(tiny, policy()) as session:
        got = generate(tiny, PROMPT, callback_on_step_end=keep(seen), **options)
        act = session.receipt.acts[0]
    assert torch.allclose(got, want, atol=1e-4)
    early = moments.count("layout")
    assert act.steps == list(range(early, STEPS)) and repr(CONTENT) in act.notes[0]
    assert all(torch.equal(a, b) for a, b in zip(seen[:early], bare)), "the layout is the prompt's own to the last bit"
    assert not torch.allclose(seen[early], bare[early], atol=1e-3)


def test_a_schedule_without_a_layout_is_all_content(tiny: Any) -> None:
    """One step, at the noisy end: better no layout than the concept."""
    with conceptguard.attach(tiny, policy(kmax=0.1, kmin=0.0)):
        tiny.scheduler = diffusers.DDIMScheduler.from_config(tiny.scheduler.config, timestep_spacing="trailing")
        content = generate(tiny, CONTENT, num_inference_steps=1, seeds=[0])
        assert torch.allclose(generate(tiny, PROMPT, num_inference_steps=1), content, atol=1e-4)


def test_two_concepts_of_one_prompt_both_go(tiny: Any) -> None:
    other = {"method": "magicmix", "concept": {"name": "dog", "prompts": ["a dog"], "replacement": "a cat"}}
    with conceptguard.attach(tiny, policy(other)) as session:
        generate(tiny, "a cigarette and a dog")
        assert [act.notes[0].split("content of ")[1] for act in session.receipt.acts] == [
            "'a bridge and a dog'", "'a bridge and a cat'"]  # fmt: skip


def test_what_is_left_of_the_concept_after_the_swap_is_not_drawn(tiny: Any) -> None:
    """By a word that no phrase covers, the gate still sees the concept: then the replacement alone is the content."""
    concept = {"name": "cigarette", "prompts": ["a cigarette", "cigarette smoke"]}
    with conceptguard.attach(tiny, policy(concept=concept)) as session:
        generate(tiny, "a cigarette beside another cigarette")
        assert session.receipt.acts[0].notes[0].endswith("the content of nothing")


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux, tiny_wan])
def test_transformers(make: Any) -> None:
    """Flow matching, packed latents, video: the same plugin, from the words to the sampler."""
    pipe = make(clip_tokenizer())
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent"}
    options |= {"num_frames": 5, "height": 16, "width": 16} if make is tiny_wan else {}
    options |= {} if make is tiny_sd3 else {"max_sequence_length": 64}

    def draw(prompt: str) -> Tensor:
        out = pipe(prompt=prompt, generator=torch.Generator().manual_seed(0), **options)
        return out[0] if make is tiny_wan else out.images

    apple, bare, bridge = draw("a red apple"), draw(PROMPT), draw(CONTENT)
    with conceptguard.attach(pipe, policy(kmax=0.8)) as session:
        assert torch.equal(draw("a red apple"), apple)
        got = draw(PROMPT)
        assert 0 < len(session.receipt.acts[0].steps) < session.receipt.steps
    assert got.isfinite().all()
    assert not torch.allclose(got, bare, atol=1e-4) and not torch.allclose(got, bridge, atol=1e-4)


def test_sdxl() -> None:
    pipe = tiny_sdxl(clip_tokenizer())
    bare = generate(pipe, ["a red apple", PROMPT], num_inference_steps=6)
    with conceptguard.attach(pipe, policy()):
        got = generate(pipe, ["a red apple", PROMPT], num_inference_steps=6)
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)


def test_negative(tiny: Any) -> None:
    """The phrases join the caller's negative prompt; without guidance that is an error, not nothing."""
    plain = generate(tiny, PROMPT, negative_prompt="blurry")
    with conceptguard.attach(tiny, policy(negative=True)):
        got = generate(tiny, PROMPT, negative_prompt="blurry")
        with pytest.raises(GuardError, match="needs classifier-free guidance"):
            generate(tiny, PROMPT, guidance_scale=1.0)
    assert not torch.allclose(got, plain, atol=1e-3)
    want = generate(tiny, CONTENT, negative_prompt="blurry, a cigarette, smoking")  # two steps: all content
    assert torch.allclose(got, want, atol=1e-4)


def test_on_the_embedded_model_the_content_is_the_replacement_and_the_layout_the_prompts(pipe: Any) -> None:
    """The judge sees the replacement; the picture is nearer to the prompt's than the replacement's own picture is."""
    from conceptguard.measuring.judges import load_judge

    options = {"num_inference_steps": 10, "guidance_scale": 3.5, "output_type": "pt"}
    concept = {"name": "apple", "prompts": ["a red apple"], "replacement": "a pistol"}
    prompts = ["a red apple, noto style"] * 2 + ["a pistol, noto style"] * 2
    layout, content = generate(pipe, prompts, seeds=[0, 1, 0, 1], **options).split(2)
    with conceptguard.attach(pipe, policy(concept=concept, kmax=0.9, kmin=0.6)):
        mixed = generate(pipe, prompts[:2], seeds=[0, 1], **options)
    judge = load_judge("emoji-sd")
    assert judge.judge(layout).objects == ["apple", "apple"] and judge.judge(mixed).objects == ["pistol", "pistol"]
    near, far = (float((picture - layout).abs().mean()) for picture in (mixed, content))
    assert near < far


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"kmin": 0.7}, "kmin 0.7 is not below kmax 0.6"),
        ({"nu": 2}, "less than or equal to 1"),
        ({"concept": {"name": "x", "prompts": []}}, "needs prompts"),
        ({"concept": {"name": "x", "prompts": [" "]}}, "none of them blank"),
    ],
)
def test_settings_that_cannot_be(tiny: Any, wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(PolicyError, match=match):
        conceptguard.attach(tiny, policy(**wrong))
