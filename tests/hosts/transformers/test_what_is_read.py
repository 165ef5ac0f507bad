"""Guards read what the model was given: caches, embeddings, and a multimodal model with its processor."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from text_guards import PHRASES, SENTENCES, given
from tiny_language import Listener, taught, tiny_llama, tiny_t5, tokenizer
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    GenerationMixin,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import conceptguard
from conceptguard.errors import GuardError, Refused, SessionError

LINES = (
    "The sun was warm. The man smoked a cigarette. Then he went home.",
    "The sun was warm. A dog ran in the park. Then he went home.",
)
BANNED = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["a cigarette"]}}]}
STRICT = {**BANNED, "unread": "refuse"}
BEGUN = "The sun was warm. The man smoked a"
PLAIN = {"max_new_tokens": 4, "do_sample": False}


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """A cache under the name that this release gives it."""
    known = inspect.getsource(GenerationMixin._prefill if hasattr(GenerationMixin, "_prefill") else GenerationMixin)
    return {"cache" if '"past_key_values"' not in known and '"cache"' in known else "past_key_values": cache}


def filled(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """A cache of all of these tokens, filled by hand."""
    cache = cached(model, DynamicCache(config=model.config))
    with torch.no_grad():
        model(ids, **cache)
    return cache


@pytest.mark.parametrize("attached", [True, False])
def test_a_prompt_in_a_cache_that_was_filled_elsewhere_is_unread(attached: bool) -> None:
    """Its end alone is shown. All of its ids beside the cache are read as ever."""
    model, tok = taught(*LINES)
    ids = given(tok, BEGUN)["input_ids"]
    mask = torch.ones_like(ids)

    def speak(policy: dict[str, Any], shown: torch.Tensor, cache: dict[str, Any]) -> tuple[str, Any]:
        if attached:
            with conceptguard.attach((model, tok), policy) as guard:
                out = model.generate(shown, attention_mask=mask, **PLAIN, **cache)
                return tok.decode(out[0]), guard.receipt
        processor = conceptguard.logits_processor(model, tok, policy)
        out = model.generate(shown, attention_mask=mask, **PLAIN, **cache, logits_processor=processor)
        return tok.decode(out[0]), processor.receipt

    text, receipt = speak(STRICT, ids, filled(model, ids[:, :-1]))
    assert "cigarette" not in text and [row.text for row in receipt.rows] == [BEGUN]
    for cut in (1, 3):
        with pytest.raises(Refused, match="in a cache that was filled elsewhere, whose text policy"):
            speak(STRICT, ids[:, -cut:], filled(model, ids[:, :-cut]))
    _, receipt = speak(BANNED, ids[:, -1:], filled(model, ids[:, :-1]))
    assert [row.text for row in receipt.rows] == [None]


@pytest.mark.parametrize("attached", [True, False])
def test_a_session_remembers_what_it_filled_a_cache_with(attached: bool) -> None:
    """Turn by turn with the new ids alone: the same as with all of them, however often, and streamed."""
    model, tok = taught(*LINES)
    ids = given(tok, BEGUN)["input_ids"]
    cache = cached(model, DynamicCache(config=model.config))
    shown, given_so_far = ids[:, :3], 3
    listener = Listener()
    session = conceptguard.attach((model, tok), STRICT) if attached else None
    processor = None if attached else conceptguard.logits_processor(model, tok, STRICT)
    more = {"logits_processor": processor} if processor else {}
    said = ids[:, :0]
    for upto in (8, ids.shape[1], None):
        text = torch.cat([said, shown], 1)
        mask = torch.ones(1, text.shape[1])
        out = model.generate(shown, attention_mask=mask, max_new_tokens=1 if upto else 4, do_sample=False,
                             streamer=listener, **cache, **more)  # fmt: skip
        receipt = session.receipt if session else processor.receipt
        assert [row.text for row in receipt.rows] == [tok.decode(text[0], skip_special_tokens=True)]
        said, shown, given_so_far = text, ids[:, given_so_far:upto], upto or 0
    assert "cigarette" not in tok.decode(out[0]) and receipt.acts[0].touched
    if session:
        session.detach()


def test_embeddings_beside_other_ids_are_unread() -> None:
    """``generate`` shows processors the ids, and the model the embeddings."""
    model, tok = taught(*LINES)
    shown, meant = given(tok, "The man went home")["input_ids"], given(tok, BEGUN)["input_ids"]
    embeds = model.get_input_embeddings()(meant)
    both = {"input_ids": shown, "inputs_embeds": embeds, "attention_mask": torch.ones_like(meant), **PLAIN}
    with conceptguard.attach((model, tok), STRICT), pytest.raises(Refused, match="came as embeddings"):
        model.generate(**both)
    processor = conceptguard.logits_processor(model, tok, STRICT)
    with pytest.raises(Refused, match="came as embeddings"):
        model.generate(**both, logits_processor=processor)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_states_of_another_text_are_unread(options: dict[str, Any]) -> None:
    """An encoder's states that the caller brings are of the text that it read last, or of one that nobody saw."""
    tok = tokenizer("sentencepiece")
    model = tiny_t5(tok)
    meant, other = given(tok, "a red apple")["input_ids"], given(tok, "the man went home")["input_ids"]
    unseen = model.get_encoder()(meant)
    with conceptguard.attach((model, tok), STRICT) as guard:
        model.generate(other, max_new_tokens=3, **options)
        assert [row.text for row in guard.receipt.rows] == ["the man went home"]
        with pytest.raises(Refused, match="came as embeddings"):
            model.generate(encoder_outputs=unseen, max_new_tokens=3, **options)
        seen = model.get_encoder()(meant)
        model.generate(encoder_outputs=seen, max_new_tokens=3, **options)
        assert [row.text for row in guard.receipt.rows] == ["a red apple"]


def test_a_row_keeps_what_its_caller_allows_it() -> None:
    """Nothing is taken back beside somebody's own processors, each row keeps its rules, and the receipt says so."""
    model, tok = taught(*LINES)
    prompts = given(tok, "The sun", "The sun was warm. The")
    every = list(range(model.config.vocab_size))
    words = [i for i in every if "a" not in tok.decode([i])]
    seen: dict[int, list[int]] = {0: [], 1: []}

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        seen[row].append(len(ids))
        return words if row else every

    class Grammar:
        """Fails when a text does not go on."""

        length = 0

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            assert ids.shape == (2, self.length or ids.shape[1])
            self.length = ids.shape[1] + 1
            return scores

    begin = prompts["input_ids"].shape[1]
    policy = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["smoked", "ran in"]}}]}
    with conceptguard.attach((model, tok), policy) as guard:
        out = model.generate(**prompts, max_new_tokens=16, do_sample=False, prefix_allowed_tokens_fn=allowed)
        assert not any("a" in tok.decode([i]) for i in out[1, begin:] if i not in tok.all_special_ids)
        assert "takes no words back beside prefix_allowed_tokens_fn" in str(guard.receipt)
        assert seen[1] == sorted(seen[1]) == seen[0]
        model.generate(**prompts, max_new_tokens=16, do_sample=False, logits_processor=[Grammar()])
        assert guard.receipt.acts[0].notes == ["takes no words back beside logits_processor"]
        assert not guard.receipt.acts[0].taken_back
    with conceptguard.attach((model, tok), SENTENCES), pytest.raises(GuardError, match="prefix_allowed_tokens_fn"):
        model.generate(**prompts, max_new_tokens=16, do_sample=False, prefix_allowed_tokens_fn=allowed)


def llava(tok: Any) -> Any:
    """A tiny model that sees pictures, and inputs with two of them."""
    torch.manual_seed(0)
    image = tok.convert_tokens_to_ids("<image>")
    text = LlamaConfig(
        vocab_size=len(tok) + 8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=30, patch_size=15,
        projection_dim=32,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=image))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = tok.pad_token_id, tok.eos_token_id
    rows = [[image] * 4 + tok(words, add_special_tokens=False).input_ids[:3] for words in (" a man in", " a book on")]
    ids = torch.tensor(rows)
    pixels = torch.randn(2, 3, 30, 30)
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def test_a_multimodal_model_attaches_with_its_processor() -> None:
    tok = copy.deepcopy(tokenizer())
    tok.add_special_tokens({"additional_special_tokens": ["<image>"]})
    model, inputs = llava(tok)
    processor = SimpleNamespace(tokenizer=tok, image_processor=object())
    said = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    first = tok.decode(said[0, :1]).strip()
    policy = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": [first or "dog"]}}]}
    with conceptguard.attach((model, processor), policy) as guard:
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert guard.receipt.steps == 6 and len(guard.receipt.rows) == 2
        assert all(row.text and "<image>" not in row.text for row in guard.receipt.rows)
        for part in (model, model.model, model.model.language_model):
            with pytest.raises(GuardError, match="called by itself"):
                part(**inputs) if part is not model.model.language_model else part(input_ids=inputs["input_ids"])
    assert first and int(out[0, inputs["input_ids"].shape[1]]) != int(said[0, 0])
    with pytest.raises(SessionError, match=r"with a SimpleNamespace: it has no tokenizer, .* \(model, processor\)"):
        conceptguard.attach((tiny_llama(), SimpleNamespace(image_processor=object())), PHRASES)
