"""Bad input of language guards: an answer or a clear error, and no text leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from faulty_guards import NothingLeft
from text_guards import PHRASES, SENTENCES, Reader, given
from tiny_language import tiny_llama, tokenizer
from transformers import BertConfig, BertModel

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import ConceptGuardError, GuardError, PolicyError, Refused, SessionError
from conceptguard.generation.decoding import Decoding
from conceptguard.testing.kit_guards import offered


def test_a_tokenizer_of_another_model() -> None:
    small = tokenizer("bytes", 300)
    for model, tok in ((tiny_llama(small), tokenizer()), (tiny_llama(tokenizer(), beyond=5000), tokenizer())):
        with pytest.raises(SessionError, match=r"they do not belong together; give the model's own tokenizer"):
            conceptguard.logits_processor(model, tok, PHRASES)


def test_a_token_beyond_the_tokenizer() -> None:
    """A padded vocabulary is fine, until the model says a token that nobody can read."""
    tok = tokenizer()
    model = tiny_llama(tok, beyond=8)
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    one = given(tok, "a")
    assert torch.equal(
        model.generate(**one, max_new_tokens=3, do_sample=False),
        model.generate(**one, max_new_tokens=3, do_sample=False, logits_processor=processor),
    )
    with torch.no_grad():
        model.lm_head.weight[len(tok) + 2] = (
            model.lm_head.weight[int(model.generate(**one, max_new_tokens=1)[0, -1])] * 9
        )
    with pytest.raises(GuardError, match=rf"the model said token {len(tok) + 2}, which its tokenizer does not have"):
        model.generate(**one, max_new_tokens=4, do_sample=False, logits_processor=processor)


def test_tokens_that_the_model_cannot_say() -> None:
    """Added to the tokenizer, and the model was not resized: they are closed without being there."""
    tok = copy.deepcopy(tokenizer())
    model = tiny_llama(tok)
    tok.add_tokens([*(f"<filler {i}>" for i in range(model.config.vocab_size - len(tok))), "cigarette", "red"])
    assert len(tok) > model.config.vocab_size
    prompts = ["cigarette", "red", "dog", "the last cigarette"]
    bank = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": prompts}}]}
    processor = conceptguard.logits_processor(model, tok, bank)
    out = model.generate(**given(tok, "the last"), max_new_tokens=9, do_sample=True, logits_processor=processor)
    assert out.shape[1] > 2 and processor.receipt.steps


def test_empty_prompts() -> None:
    tok, model = tokenizer(), tiny_llama()
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    assert model.generate(max_new_tokens=3, logits_processor=processor).shape[1] == 4
    assert [row.text for row in processor.receipt.rows] == [""]
    batch = given(tok, "", "a red apple on a table")
    model.generate(**batch, max_new_tokens=3, logits_processor=processor)
    assert [row.text for row in processor.receipt.rows] == ["", "a red apple on a table"]
    with conceptguard.attach((model, tok), PHRASES) as guard:
        assert model.generate(**batch, max_new_tokens=3).shape == (2, batch["input_ids"].shape[1] + 3)
        assert [row.text for row in guard.receipt.rows] == ["", "a red apple on a table"]


def test_embeddings_have_no_words() -> None:
    """Guards of the output go on; a policy may refuse what it cannot read, and a guard that must read says so."""
    tok, model = tokenizer(), tiny_llama()
    embeds = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    model.generate(inputs_embeds=embeds, max_new_tokens=3, logits_processor=processor)
    assert [row.text for row in processor.receipt.rows] == [None]
    strict = conceptguard.logits_processor(model, tok, {**PHRASES, "unread": "refuse"})
    with pytest.raises(Refused, match="came as embeddings"):
        model.generate(inputs_embeds=embeds, max_new_tokens=3, logits_processor=strict)
    with offered(Reader) as guard:
        reads = conceptguard.logits_processor(model, tok, {"guards": [guard]})
        with pytest.raises(GuardError, match=r"came as embeddings.* which guards of this policy cannot read"):
            model.generate(inputs_embeds=embeds, max_new_tokens=3, logits_processor=reads)


def test_a_prompt_of_a_hundred_thousand_characters() -> None:
    tok, model = tokenizer(), tiny_llama()
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    ids = tok("a red apple on a table " * 4500 + "a do", return_tensors="pt").input_ids
    scores = processor[0](ids, torch.zeros(1, model.config.vocab_size))
    assert bool((scores == -torch.inf).any())
    assert len(processor.receipt.rows[0].text) > 100_000


def test_what_is_no_language_model() -> None:
    tok = tokenizer()
    reader = BertModel(
        BertConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    with pytest.raises(SessionError, match="cannot guard a BertModel: it generates no text"):
        conceptguard.attach((reader, tok), PHRASES)
    with pytest.raises(SessionError, match="without its tokenizer"):
        conceptguard.attach((tiny_llama(), None), PHRASES)
    with pytest.raises(SessionError, match="cannot guard a Linear: it generates no text"):
        conceptguard.logits_processor(torch.nn.Linear(1, 1), tok, PHRASES)
    with pytest.raises(SessionError, match="give a pair"):
        conceptguard.attach(tiny_llama(), PHRASES)


def test_guards_that_leave_nothing_to_say() -> None:
    tok, model = tokenizer(), tiny_llama()
    with offered(NothingLeft) as guard:
        processor = conceptguard.logits_processor(model, tok, {"guards": [guard]})
        out = model.generate(**given(tok, "a"), max_new_tokens=5, do_sample=True, logits_processor=processor)
    assert out[0].tolist() == [*tok("a").input_ids, tok.eos_token_id]


def test_a_hook_that_nobody_calls() -> None:
    class Misspelt(Method):
        name = "misspelt"
        needs = "nothing"

        @hookimpl
        def process_logit(self, decoding: Decoding) -> None:
            return None

    expected = "'process_logit', which no host calls: did you mean 'process_logits'"
    with pytest.raises(ConceptGuardError, match=expected), offered(Misspelt) as guard:
        conceptguard.logits_processor(tiny_llama(), tokenizer(), {"guards": [guard, *PHRASES["guards"]]})


def test_a_misspelt_setting() -> None:
    with pytest.raises(PolicyError, match="did you mean 'budget'"):
        conceptguard.attach((tiny_llama(), tokenizer()), {"guards": [{**SENTENCES["guards"][0], "budgett": 3}]})


def test_a_tokenizer_that_was_used_before() -> None:
    """It is left padding and cutting by the last call, and what guards encode is neither."""
    tok = copy.deepcopy(tokenizer())
    words = [" cigarette", " a dog in a park"]
    expected = [tok(word, add_special_tokens=False).input_ids for word in words]
    for left in ({"padding": True}, {"truncation": True, "max_length": 2, "padding": "max_length"}):
        encode = conceptguard.logits_processor(tiny_llama(tok), tok, PHRASES).session.host.vocabulary.encode
        used = tok(words, **left).input_ids
        assert encode(words) == expected
        assert tok.backend_tokenizer.padding is not None and tok(words, **left).input_ids == used
