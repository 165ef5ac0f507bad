"""Asking a model ahead: it tells what it would say, and the generation that is under way knows nothing of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_language import tiny_gpt2, tiny_llama, tiny_t5, tokenizer

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.generation.decoding import Decoding
from conceptguard.testing.kit_guards import offered

MORE = [[7, 9], [11, 7], [7, 30]]


class Asks(Method):
    """Text: asks the model ahead at every token, and keeps what it said."""

    name = "asks"
    needs = "nothing"
    regrets = True

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        assert decoding.ahead is not None
        told = decoding.ahead([0, 0, len(decoding.prompt_of) - 1], MORE)
        assert told is not None
        heard.append((decoding.ids.clone(), told))


heard: list[tuple[torch.Tensor, torch.Tensor]] = []


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}],
                         ids=["plain", "beams", "no cache", "static cache"])  # fmt: skip
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_t5])
def test_what_it_would_say(make: Callable[..., Any], options: dict[str, Any]) -> None:
    tok = tokenizer("sentencepiece" if make is tiny_t5 else "bytes")
    model = make(tok)
    if make is tiny_t5 and "cache_implementation" in options:
        pytest.skip("this model has no such cache")
    # static caches of padded rows give scores of their own; what is asked is about texts without padding
    texts = ["a red apple on the table", "Elena"] if "cache_implementation" not in options else ["a red apple"]
    given = tok(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    more = {
        "max_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": tok.pad_token_id,
        "disable_compile": True,
        **options,
    }
    plain = model.generate(**given, **more)
    heard.clear()
    with offered(Asks) as guard:
        processor = conceptguard.logits_processor(model, tok, {"guards": [guard]})
        said = model.generate(**given, **more, logits_processor=processor)
    assert torch.equal(said, plain), "the generation is what it was"
    assert len(heard) >= 4
    kinds = len(given.input_ids)
    for ids, told in heard:
        for row, own, scores in zip((0, 0, len(ids) - 1), MORE, told):
            prompt = row * kinds // len(ids)
            source, kept = given.input_ids[prompt], given.attention_mask[prompt].bool()
            if make is tiny_t5:
                text = torch.cat([ids[row], torch.tensor(own)])
                out = model(input_ids=source[kept][None], decoder_input_ids=text[None])
            else:
                text = torch.cat([source[kept], ids[row, len(source) :], torch.tensor(own)])
                out = model(input_ids=text[None])
            assert torch.allclose(scores, out.logits[0, -1], atol=1e-4)


def test_a_processor_that_can_ask_says_what_it_cannot_do_and_attach_says_nothing() -> None:
    tok, model = tokenizer(), tiny_llama()
    policy = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["cigarette"]}}]}
    with pytest.warns(UserWarning, match=r"may still leave half of one .*; conceptguard\.attach"):
        conceptguard.logits_processor(model, tok, policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with conceptguard.attach((model, tok), policy):
            pass


def test_a_processor_that_cannot_ask_says_so() -> None:
    tok = tokenizer()
    model = tiny_llama(tok)
    model.compile(backend="eager")
    policy = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["cigarette"]}}]}
    with pytest.warns(UserWarning, match=r"will leave half of a word .* use conceptguard.attach"):
        conceptguard.logits_processor(model, tok, policy)
