"""A-STAR: the maps are the model's, the gradient is theirs, the guard goes down it, and what that does to pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.astar.method import Reading, overlap, retention, segregation
from conceptguard_plugins.diffusion.astar.words import Span, find, nearest, spans_of, words_of
from tiny import clip_tokenizer, generate, tiny_sdxl
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan
from torch import Tensor

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.denoising import Conditions
from conceptguard.plugins import host_for
from conceptguard.testing.kit_guards import Beside, offered
from conceptguard.testing.traces import differences, snapshot

PROMPT = "a cigarette and a dog"


def policy(**guard: Any) -> dict[str, Any]:
    return {"guards": [{"method": "astar", "concept": {"name": "cigarette", "prompts": ["cigarette"]}, **guard}]}


def test_losses() -> None:
    """Two maps apart, two alike, and two that share one of three places."""
    a, b, c = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0])
    assert overlap(a, b) == 0 and overlap(a, a) == 0.5 and torch.isclose(overlap(b, c), torch.tensor(0.25))
    spans = [Span(word, (i + 1,)) for i, word in enumerate("abc")]
    maps = torch.stack([a, b, c])
    # As a guard: the first from the others, which alone are retained. As in the paper: all pairs, all retained.
    assert torch.isclose(segregation(maps, Reading(spans, 1)), overlap(a, b) + overlap(a, c))
    assert torch.isclose(segregation(maps, Reading(spans, 0)), overlap(a, b) + overlap(a, c) + overlap(b, c))
    before = maps.roll(1, 0)
    assert torch.isclose(retention(maps, before, Reading(spans, 1)), 2 - overlap(b, a) - overlap(c, b))
    assert torch.isclose(retention(maps, maps, Reading(spans, 0)), torch.tensor(1.5))


def test_words(tiny: Any) -> None:
    host = host_for(tiny)
    assert words_of("A dog and a cat, noto style!") == ["dog", "cat", "noto", "style"]
    text = "a hot dog and a dog with an umbrella"
    ids = host.tokens([text])[0]
    dog = host.tokens(["dog"])[0][0]
    assert [p - 1 for p in find(host, text, "a dog").positions] == [i for i, t in enumerate(ids) if t == dog]  # type: ignore[union-attr]
    assert find(host, text, "hot dog").positions == (2, 3) and find(host, text, "cat") is None  # type: ignore[union-attr]
    assert [span.words for span in spans_of(host, text)] == ["hot", "dog", "dog", "umbrella"]
    assert spans_of(host, text)[1].positions != spans_of(host, text)[2].positions
    assert nearest(host, "a dog and a cigarette", ["cigarette"]).words == "cigarette"  # type: ignore[union-attr]
    assert nearest(host, "a", ["cigarette"]) is None and spans_of(host, "🐸 " * 9) == []


class Looks(Method):
    """Notes what rows look at in the first step, and the gradient of their attention to the second token."""

    name = "looks"
    needs = "nothing"
    told: list[tuple[Conditions, Tensor, Tensor]] = []

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        assert conditions.attend is not None
        if conditions.moment.step == 0:
            self.told.append((conditions, *conditions.attend([1], lambda maps: maps[:, :, 2].square().sum(1))))


class Scores:
    """diffusers' plain attention, which keeps its probabilities: a second way to the maps, by a processor."""

    def __init__(self, kept: list[Tensor]):
        self.kept = kept

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = (attn.head_to_batch_dim(f(encoder_hidden_states)) for f in (attn.to_k, attn.to_v))
        found = attn.get_attention_scores(query, key)
        self.kept.append(found.unflatten(0, (len(hidden_states), -1)).mean(1))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(found @ value)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
def test_maps_and_gradient_are_the_models_own(tiny: Any, inference: bool) -> None:
    """As a recording processor has them, and as a finite difference has it; no other guard acts on them."""
    Looks.told.clear()
    generate(tiny, PROMPT)  # what a first generation leaves on a pipeline is nobody's trace
    before = snapshot(tiny)
    guards = offered(Looks), offered(Beside)
    with torch.inference_mode(inference), guards[0] as looks, guards[1] as beside:
        session = conceptguard.attach(tiny, {"guards": [beside, looks]})
        generate(tiny, PROMPT)
        assert session.receipt.steps == 2, "looking is no step"
        session.detach()
    assert not differences(before, snapshot(tiny))
    conditions, maps, gradient = Looks.told.pop()
    assert conditions.latents is not None
    z, t, embeds = conditions.latents[1:].clone(), conditions.timestep, conditions.embeds[1:].clone()
    kept: list[Tensor] = []
    plain = tiny.unet.attn_processors
    tiny.unet.set_attn_processor({n: Scores(kept) if "attn2" in n else own for n, own in plain.items()})

    def look(latents: Tensor) -> Tensor:
        kept.clear()
        with torch.no_grad():
            tiny.unet(latents, t, encoder_hidden_states=embeds)
        return torch.stack(kept).mean(0)

    try:
        assert torch.allclose(look(z), maps, atol=1e-6)
        along = gradient / gradient.norm()
        ahead, behind = (look(z + s * 0.5 * along)[:, :, 2].double().square().sum() for s in (1, -1))
    finally:
        tiny.unet.set_attn_processor(plain)
    assert torch.isclose((ahead - behind).float(), gradient.norm(), rtol=0.05)


def test_the_guard_goes_down_the_gradient(tiny: Any) -> None:
    """By λ times the gradient that was asked for, the branch beside it too, and half as far at half the strength."""
    found = {}
    for strength in (1.0, 0.5):
        seen: list[Tensor] = []
        handle = tiny.unet.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(args[0].clone()) if not torch.is_grad_enabled() else None,
            with_kwargs=True, prepend=True,
        )  # fmt: skip
        after: list[Tensor] = []
        with conceptguard.attach(tiny, policy(scale=8.0, strength=strength)):
            late = tiny.unet.register_forward_pre_hook(
                lambda _, args, kwargs, after=after: after.append(args[0].clone())
                if not torch.is_grad_enabled() else None, with_kwargs=True,
            )  # fmt: skip
            generate(tiny, PROMPT, num_inference_steps=1)
            late.remove()
        handle.remove()
        found[strength] = after[0] - seen[0]
        assert torch.equal(found[strength][0], found[strength][1])
    assert found[1.0].abs().max() > 1e-3 and torch.allclose(found[1.0], 2 * found[0.5], atol=1e-4)


def test_what_it_measures_goes_down_on_the_embedded_model(pipe: Any) -> None:
    """Maps of a real model overlap less, the others' pictures are untouched; measuring alone changes nothing."""
    prompts = ["a dog and a cat, noto style", "a red apple, noto style"]
    concept = {"name": "dog", "prompts": ["dog"]}

    def draw() -> Tensor:
        return generate(pipe, prompts, num_inference_steps=6, guidance_scale=3.5)

    bare, means = draw(), {}
    for scale in (0.0, 0.05, 0.2):
        with conceptguard.attach(pipe, policy(scale=scale, concept=concept, keep=["cat"])) as session:
            got = draw()
            (values,) = session.methods[0].overlaps.values()  # type: ignore[attr-defined]
            act = session.receipt.acts[0]
        means[scale] = sum(values) / len(values)
        assert torch.equal(got[1], bare[1]) and torch.equal(got[0], bare[0]) == (scale == 0)
        assert act.steps == (list(range(6)) if scale else []) and "'dog' from 'cat'" in act.notes[0]
        assert act.notes[-1].startswith("cost 6 more passes of the denoiser")
    assert means[0.2] < means[0.05] < means[0.0], means


def test_a_likeness_is_found_and_nothing_beside_it_is_nothing_to_do(tiny: Any) -> None:
    with conceptguard.attach(tiny, policy(gate="always")) as session:
        bare = generate(tiny, "a dog")
        assert session.receipt.acts[0].steps == [] and not session.receipt.opened, "one word, nothing to keep it from"
        generate(tiny, "a dog and a bridge")
        assert "from" in session.receipt.acts[0].notes[0]
    assert torch.equal(bare, generate(tiny, "a dog"))


def test_sdxl() -> None:
    pipe = tiny_sdxl(clip_tokenizer())
    bare = generate(pipe, ["a red apple", PROMPT])
    with conceptguard.attach(pipe, policy(scale=8.0)):
        got = generate(pipe, ["a red apple", PROMPT])
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux, tiny_wan])
def test_transformers_are_refused_at_attach(make: Any) -> None:
    with pytest.raises(PolicyError, match="needs a UNet whose cross-attention can be read"):
        conceptguard.attach(make(clip_tokenizer()), policy())


def test_what_cannot_be_guarded_is_an_error(tiny: Any) -> None:
    for wrong, match in (
        ({"segregation": False, "retention": False}, "both off"),
        ({"keep": [" "]}, "blank phrases"),
        ({"scale": -1}, "greater than or equal to 0"),
        ({"concept": {"name": "cigarette", "prompts": []}}, "needs prompts"),
    ):
        with pytest.raises(PolicyError, match=match):
            conceptguard.attach(tiny, policy(**wrong))
    embeds = tiny.encode_prompt(PROMPT, "cpu", 1, True)
    texts = pytest.raises(GuardError, match="reads the words of a prompt")
    with conceptguard.attach(tiny, policy(gate="always")), texts:
        generate(tiny, None, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1])
    paper = policy(erase=False, gate="always", concept={"name": "both", "prompts": ["pipe", "dog"]})
    with conceptguard.attach(tiny, paper), pytest.raises(GuardError, match="'pipe' not in the prompt"):
        generate(tiny, PROMPT)


def test_fused_projections_are_an_error(tiny: Any) -> None:
    tiny.fuse_qkv_projections(vae=False)
    try:
        with conceptguard.attach(tiny, policy()), pytest.raises(GuardError, match=r"unfuse_qkv_projections"):
            generate(tiny, PROMPT)
    finally:
        tiny.unfuse_qkv_projections(vae=False)
