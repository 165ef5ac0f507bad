"""Questions instead of refusals, on the embedded model and real prompts."""

from __future__ import annotations

from typing import Any

import pytest
from ambiguous import WINE, WORDS
from conceptguard_plugins.diffusion.clarify import Clarify
from tiny import generate

import conceptguard
from conceptguard.errors import Clarification, GuardError, PolicyError
from conceptguard.runtime.gates import Gate


def policy(**settings: Any) -> dict[str, Any]:
    erased = {"method": "spm", "artifact": "emoji-sd/spm/wine"}
    return {"guards": [{"method": "clarify", "concept": WINE, "words": WORDS, **settings}, erased]}


@pytest.mark.parametrize("prompt", ["a glass, noto style", "mono style: a man with a Glass"])
def test_an_ambiguous_prompt_gets_a_question_and_its_readings(pipe: Any, prompt: str) -> None:
    with conceptguard.attach(pipe, policy()), pytest.raises(Clarification) as asked:
        pipe(prompt, num_inference_steps=1)
    assert asked.value.readings == ["a glass of wine", "a glass of milk", "a window"]
    assert "'glass'" in asked.value.question and prompt in asked.value.question and "\n" not in str(asked.value)


@pytest.mark.parametrize("prompt", ["a glass of milk, noto style", "a red apple", "spectacles of fiberglass"])
def test_a_settled_or_unrelated_prompt_is_drawn_as_ever(pipe: Any, prompt: str) -> None:
    bare = generate(pipe, prompt)
    with conceptguard.attach(pipe, policy()):
        assert generate(pipe, prompt).equal(bare)


def test_what_surely_is_the_concept_is_erased_without_a_question(pipe: Any) -> None:
    bare = generate(pipe, "a glass of wine, noto style")
    with conceptguard.attach(pipe, policy()) as session:
        assert not generate(pipe, "a glass of wine, noto style").equal(bare)
        assert session.receipt.acts[1].steps


def test_one_ambiguous_prompt_of_a_batch_stops_the_batch(pipe: Any) -> None:
    with conceptguard.attach(pipe, policy()), pytest.raises(Clarification, match="a glass, mono style"):
        generate(pipe, ["a red apple", "a glass, mono style"])


def test_a_gate_that_is_neither_shut_nor_open_asks(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = {"method": "clarify", "concept": {"name": "wine", "prompts": ["a glass of wine"]}}
    monkeypatch.setattr(Clarify, "gate", lambda self: Gate(("a glass of wine",), floor=0.1, full=0.99))
    with conceptguard.attach(pipe, {"guards": [unsure]}), pytest.raises(Clarification, match="about wine") as asked:
        generate(pipe, "a glass of milk")
    assert asked.value.readings == ["wine", "something else"]
    with conceptguard.attach(pipe, {"guards": [{**unsure, "unsure": False}]}):
        generate(pipe, "a glass of milk")


def test_padding_around_a_request_is_named_in_the_receipt(pipe: Any) -> None:
    prompt = "a quiet morning in the garden, my old uncle reads, a glass of wine. the weather is fine"
    with conceptguard.attach(pipe, policy()) as session:
        generate(pipe, prompt)
        (note,) = session.receipt.acts[0].notes
    assert note.startswith("asks for 'a glass of wine'; beside the point: 'a quiet morning in the garden'")
    assert "the weather is fine" in note and note in str(session.receipt)


def test_embeddings_without_their_text_cannot_be_read_and_are_refused(pipe: Any) -> None:
    embeds = pipe.encode_prompt("a glass, noto style", "cpu", 1, False)[0]
    with conceptguard.attach(pipe, policy()), pytest.raises(GuardError, match="pass the prompt as text"):
        pipe(prompt_embeds=embeds, num_inference_steps=1, guidance_scale=1.0, output_type="latent")


def test_a_word_with_one_reading_is_no_question(pipe: Any) -> None:
    with pytest.raises(PolicyError, match="'glass' needs two readings"):
        conceptguard.attach(pipe, policy(words={"glass": {"a window": []}}))
