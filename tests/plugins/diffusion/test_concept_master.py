"""Concept-gated attention: which rows come from where, that others are left alone, other models, and video."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import clip_tokenizer, generate, tiny_sd, tiny_sdxl
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan
from torch import Tensor

import conceptguard
from conceptguard.errors import GuardError
from conceptguard.plugins import host_for
from conceptguard.testing import Case, contract_tests

PROMPT, FREE = "a cigarette and a dog", "something and a dog"
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}


def policy(*more: dict[str, Any], **guard: Any) -> dict[str, Any]:
    return {"guards": [{"method": "concept_master", "concept": CONCEPT, **guard}, *more]}


test_contract = contract_tests(
    lambda: replace(Case(policy()["guards"][0], opens="a cigarette"), load=lambda: tiny_sd(clip_tokenizer()))
)


def read(pipe: Any, guards: dict[str, Any], prompt: str, **options: Any) -> Tensor:
    """What the denoiser is given for the prompt under a policy, [tokens, width]."""
    seen: list[Tensor] = []
    with conceptguard.attach(pipe, guards):
        hook = pipe.unet.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"][-1].clone()), with_kwargs=True
        )
        generate(pipe, prompt, num_inference_steps=1, **options)
        hook.remove()
    return seen[0]


def encoded(pipe: Any, *texts: str) -> Tensor:
    return host_for(pipe).encode(list(texts)).embeds


def test_the_guarded_rows_are_the_empty_prompts_and_the_rest_never_heard_of_it(tiny: Any) -> None:
    own, free, nothing = encoded(tiny, PROMPT, FREE, "")
    got = read(tiny, policy(), PROMPT)
    closed = list(range(1, 1 + len(host_for(tiny).tokens(["something"])[0])))
    rest = [i for i in range(len(got)) if i not in closed]
    assert closed and torch.equal(got[closed], nothing[closed]) and torch.equal(got[rest], free[rest])
    assert not torch.allclose(got[closed], own[closed], atol=1e-3)


def test_it_does_not_matter_what_the_guarded_concept_was(tiny: Any) -> None:
    """What the encoder mixed of it into its neighbours' rows is gone: two concepts leave the same picture."""
    other = {"name": "bicycle", "prompts": ["a bicycle", "smoking"]}
    pictures = []
    for prompt, concept in ((PROMPT, CONCEPT), ("a bicycle and a dog", other)):
        with conceptguard.attach(tiny, policy(concept=concept)):
            pictures.append(generate(tiny, prompt))
    assert torch.equal(*pictures) and not torch.equal(generate(tiny, PROMPT), generate(tiny, "a bicycle and a dog"))


def test_each_guard_closes_its_own_in_any_order(tiny: Any) -> None:
    both = [{"method": "concept_master", "concept": one} for one in (CONCEPT, {"name": "dog", "prompts": ["a dog"]})]
    got = [read(tiny, {"guards": guards}, PROMPT + ", a tree") for guards in (both, both[::-1])]
    free, nothing = encoded(tiny, "something and something, a tree", "")
    same = lambda one: {i for i in range(len(free)) if torch.equal(one[i], nothing[i])}  # noqa: E731
    closed = same(got[0]) - same(free)
    assert torch.equal(*got) and len(closed) == 2 * len(host_for(tiny).tokens(["something"])[0])
    rest = [i for i in range(len(free)) if i not in closed]
    assert torch.equal(got[0][rest], free[rest])


def test_what_is_kept_apart_has_rows_that_know_nothing_of_each_other(tiny: Any) -> None:
    """Its words', and of the padding every other one."""
    prompt = "a cigarette, a dog and a tree"
    got = read(tiny, policy(apart=["dog", "tree", "house"]), prompt)
    dog, tree = encoded(tiny, "something, a dog and a something", "something, a something and a tree")
    whole = encoded(tiny, "something, a dog and a tree")[0]
    of = lambda states: [i for i in range(len(got)) if torch.equal(got[i], states[i])]  # noqa: E731
    ids = host_for(tiny).tokens
    end = 1 + len(ids(["something, a dog and a tree"])[0])
    at = {len(ids(["something, a dog and a tree"])[0])}
    assert set(range(end, len(got), 2)) <= set(of(dog)) and set(range(end + 1, len(got), 2)) <= set(of(tree))
    assert at <= set(of(tree)) and not at & set(of(whole))
    one = read(tiny, policy(apart=["dog"]), prompt)
    assert torch.equal(one[end:], whole[end:]), "one alone is kept from nothing"


def test_a_replacement_stands_in_its_place(tiny: Any) -> None:
    with conceptguard.attach(tiny, policy(concept={**CONCEPT, "replacement": "a bridge"})):
        got = generate(tiny, PROMPT)
    assert torch.equal(got, generate(tiny, "a bridge and a dog"))


def test_embeddings_without_their_text_are_refused(tiny: Any) -> None:
    embeds = encoded(tiny, PROMPT)
    with conceptguard.attach(tiny, policy(gate="always")), pytest.raises(GuardError, match="reads the words"):
        tiny(prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds), num_inference_steps=1)


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3, tiny_flux, tiny_wan])
def test_other_models_and_video(make: Any) -> None:
    """Several encoders, T5, frames: what has no cigarette in it is left alone, and the rest becomes the same of any."""
    pipe = make(clip_tokenizer())
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    options |= {"height": 16, "width": 16} if make is tiny_wan else {"height": 32, "width": 32}
    options |= {"num_frames": 5} if make is tiny_wan else {}
    options |= {} if make in (tiny_sd3, tiny_sdxl) else {"max_sequence_length": 64}

    def draw(*prompts: str) -> Tensor:
        own = [torch.Generator().manual_seed(0) for _ in prompts]
        out = pipe(prompt=list(prompts), generator=own, **options)
        return torch.as_tensor(out[0] if make is tiny_wan else out.images)

    bare, free = draw("a red apple", PROMPT), draw("a red apple", "a bicycle and a dog")
    with conceptguard.attach(pipe, policy()) as session:
        got = draw("a red apple", PROMPT)
        act = session.receipt.acts[0]
    with conceptguard.attach(pipe, policy(concept={"name": "bicycle", "prompts": ["a bicycle", "smoking"]})):
        same = draw("a red apple", "a bicycle and a dog")
    assert got.isfinite().all() and torch.equal(got[0], bare[0]) and len(act.steps) == 2
    assert not torch.allclose(got[1], bare[1], atol=1e-3) and not torch.allclose(bare[1], free[1], atol=1e-3)
    assert torch.allclose(got[1], same[1], atol=1e-5)


def test_the_one_word_is_closed_that_no_phrase_covers(tiny: Any) -> None:
    """What the gate sees behind the phrases, and no more of the prompt."""
    with conceptguard.attach(tiny, policy()) as session:
        generate(tiny, "one cigarette and a dog")
        told = session.receipt.acts[0].notes
    assert told == ["'one cigarette and a dog' was read as 'one something and a dog', that word closed"]
