"""A policy at a language model: every way to generate, what the receipt tells, and what is refused."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from text_guards import PHRASES, SENTENCES, Reader, given
from tiny_language import taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer
from transformers import DynamicCache, LogitsProcessorList, TextStreamer, pipeline

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError, SessionError
from conceptguard.generation.decoding import Sentence
from conceptguard.testing.kit_guards import offered

BANNED = (" dog", " red", " cigarette")
LINES = (
    "The sun was warm. The man smoked a cigarette. Then he went home.",
    "The sun was warm. A dog ran in the park. Then he went home.",
)


WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True},
    "beams": {"num_beams": 3},
    "beam samples": {"num_beams": 3, "do_sample": True},
    "several": {"num_beams": 3, "num_return_sequences": 2},
    "several sampled": {"do_sample": True, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "without cache": {"use_cache": False},
    "contrastive settings": {"do_sample": True, "top_k": 5, "temperature": 0.7, "repetition_penalty": 1.2},
}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_generate(kind: str, way: str) -> None:
    """Nothing forbidden is said, every prompt is read once, attached and as a processor."""
    tok = tokenizer("sentencepiece") if kind == "t5" else tokenizer()
    model = {"llama": tiny_llama, "gpt2": tiny_gpt2, "t5": tiny_t5}[kind](tok)
    batch, begin = given(tok, "a red apple on a table", "a dog"), 1
    if kind != "t5":
        begin = batch["input_ids"].shape[1]
    if kind == "t5" and "cache_implementation" in WAYS[way]:
        pytest.skip("this model has no static cache")
    options = {"max_new_tokens": 6, "pad_token_id": tok.pad_token_id, **WAYS[way]}
    with offered(Reader) as guard:
        processor = conceptguard.logits_processor(model, tok, {"guards": [guard]})
        said = [model.generate(**batch, logits_processor=processor, **options)[:, begin:]]
        receipts = [processor.receipt]
        with conceptguard.attach((model, tok), {"guards": [guard]}) as session:
            said.append(model.generate(**batch, **options)[:, begin:])
            receipts.append(session.receipt)
    for ids, receipt in zip(said, receipts):
        assert not ((ids >= 100) & (ids < 400)).any()
        assert [row.text for row in receipt.rows] == ["a red apple on a table", "a dog"]
        assert [r.label for r in receipt.acts[0].readings] == [f"{row.text}, 32 wide" for row in receipt.rows]
        assert receipt.steps >= ids.shape[1] and receipt.acts[0].touched
        json.dumps(receipt.to_dict())


def test_streaming_assisted_and_a_pipeline() -> None:
    model, tok = taught(*LINES)
    one = given(tok, "The sun was")
    plain = {"max_new_tokens": 20, "do_sample": False}
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    expected = model.generate(**one, logits_processor=processor, **plain)
    heard: list[str] = []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            heard.append(text)

    streamed = model.generate(**one, logits_processor=processor, streamer=Streamer(tok), **plain)
    drafted = model.generate(**one, logits_processor=processor, assistant_model=tiny_llama(tok), **plain)
    looked_up = model.generate(**one, logits_processor=processor, prompt_lookup_num_tokens=2, **plain)
    text = tok.decode(expected[0], skip_special_tokens=True)
    assert "cigarette" not in text
    assert "".join(heard).replace("</s>", "").strip() == text.strip()
    assert torch.equal(streamed, expected) and torch.equal(drafted, expected) and torch.equal(looked_up, expected)
    speaker = pipeline("text-generation", model=model, tokenizer=tok)
    with conceptguard.attach((model, tok), PHRASES):
        text = tok.decode(model.generate(**one, **plain)[0], skip_special_tokens=True)
    with conceptguard.attach(speaker, PHRASES) as guard:
        assert speaker("The sun was", **plain)[0]["generated_text"] == text and "cigarette" not in text
        assert any(" cigarette" in "".join(t.tokens) or t.tokens for t in guard.receipt.acts[0].touched)
        batched = speaker(["The sun was", "The sun"], batch_size=2, **plain)
        assert all("cigarette" not in found[0]["generated_text"] for found in batched)
    assert "cigarette" in speaker("The sun was", **plain)[0]["generated_text"]


def test_a_processor_beside_others_and_used_again() -> None:
    model, tok = taught(*LINES)
    ours = conceptguard.logits_processor(model, tok, PHRASES)
    both = LogitsProcessorList([*ours])
    for prompts in (("The sun was", "The sun", "The"), ("The sun",), ("The", "The sun")):
        out = model.generate(**given(tok, *prompts), logits_processor=both, max_new_tokens=20, do_sample=False)
        assert not any("cigarette" in text for text in tok.batch_decode(out))
        assert [row.text for row in ours.receipt.rows] == list(prompts)


def test_the_model_looks_like_itself_and_is_let_go() -> None:
    model, tok = tiny_llama(), tokenizer()
    own = type(model)
    with conceptguard.attach((model, tok), PHRASES):
        assert isinstance(model, own) and type(model).__name__ == own.__name__
        with pytest.raises(SessionError, match="already guarded by policy 'policy': detach that session first"):
            conceptguard.attach((model, tok), PHRASES)
        with pytest.raises(GuardError, match="continuous batching asks no logits processor"):
            model.generate_batch(inputs=[[5, 6]])
    assert type(model) is own
    session = conceptguard.attach((model, tok), PHRASES)
    session.detach()
    with pytest.raises(SessionError, match="not attached any more"):
        session.detach()


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_guarded_model_is_not_called_past_its_guards(kind: str) -> None:
    """A loop of one's own under a session is refused; with a processor on the detached model it says the same."""
    tok = tokenizer("sentencepiece" if kind == "t5" else "bytes")
    model = tiny_t5(tok) if kind == "t5" else taught(*LINES)[0]
    one = given(tok, "The sun was")
    call = {**one, "decoder_input_ids": torch.tensor([[0]])} if kind == "t5" else one
    with conceptguard.attach((model, tok), PHRASES):
        with pytest.raises(GuardError, match=r"scores would leave that no guard has seen: use generate\(\)"):
            model(**call)
        out = model.generate(**one, max_new_tokens=8, do_sample=False)
        with pytest.raises(GuardError, match="called by itself"):
            model(**call)
        with pytest.raises(ValueError):
            model.generate(**one, max_new_tokens=-1)
        with pytest.raises(GuardError, match="called by itself"):
            model(**call)
    gc.collect()  # processors of other tests listen to this model while they live
    assert not model._forward_pre_hooks and torch.isfinite(model(**call).logits).all()
    if kind == "llama":
        processor = conceptguard.logits_processor(model, tok, PHRASES)
        ids = one["input_ids"]
        for _ in range(8):
            scores = processor(ids, model(input_ids=ids).logits[:, -1].float())
            ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], -1)
        assert torch.equal(ids, out)


def test_a_processor_hears_an_encoder_only_while_it_lives() -> None:
    tok = tokenizer("sentencepiece")
    model = tiny_t5(tok)
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    assert model.get_encoder()._forward_pre_hooks
    del processor
    gc.collect()
    assert not model.get_encoder()._forward_pre_hooks


def test_one_policy_for_images_and_text() -> None:
    """Guards that draw stand aside, and the receipt says so; a policy of nothing else is an error."""
    tok = tokenizer()
    draws = {"method": "sld", "concept": {"name": "x", "prompts": ["dog"]}}
    processor = conceptguard.logits_processor(tiny_llama(), tok, {"guards": [draws, *PHRASES["guards"]]})
    tiny_llama().generate(**given(tok, "a"), logits_processor=processor, max_new_tokens=2)
    assert [act.guard for act in processor.receipt.acts] == ["phrases x", "sld x"]
    assert processor.receipt.acts[1].notes == ["stands aside: not for transformers LlamaForCausalLM"]
    with pytest.raises(SessionError, match="no guard of policy 'policy' acts on transformers LlamaForCausalLM: sld"):
        conceptguard.logits_processor(tiny_llama(), tok, {"guards": [draws]})


def test_sentences_are_taken_back() -> None:
    model, tok = taught(*LINES)
    for options in ({"do_sample": False}, {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 2}):
        with conceptguard.attach((model, tok), SENTENCES) as guard:
            torch.manual_seed(1)
            out = model.generate(**given(tok, "The sun was", "The sun"), max_new_tokens=40, **options)
            texts = tok.batch_decode(out, skip_special_tokens=True)
            assert all(text == LINES[1] for text in texts), texts
            acts = guard.receipt.acts[0]
            assert all(back.label == "smoking" and back.score > 0.45 for back in acts.taken_back)
            assert acts.taken_back or "num_beams" in options


def test_a_spent_budget_ends_the_text_before_the_sentence() -> None:
    model, tok = taught(*LINES)
    spent = {"guards": [{**SENTENCES["guards"][0], "budget": 0}]}
    with conceptguard.attach((model, tok), spent) as guard:
        out = model.generate(**given(tok, "The sun was"), max_new_tokens=40, do_sample=False)
        assert tok.decode(out[0], skip_special_tokens=True).strip() == "The sun was warm."
        assert "ends before a sentence that was rejected" in str(guard.receipt)


@pytest.mark.parametrize(
    "option", [{"past_key_values": DynamicCache()}, {"return_dict_in_generate": True}], ids=lambda o: next(iter(o))
)
def test_what_cannot_be_taken_back_is_refused(option: dict[str, Any]) -> None:
    model, tok = taught(*LINES)
    with conceptguard.attach((model, tok), SENTENCES), pytest.raises(GuardError, match=next(iter(option))):
        model.generate(**given(tok, "The sun was"), max_new_tokens=4, **option)


def test_a_sentence_guard_needs_the_whole_generation() -> None:
    with pytest.raises(SessionError, match=r"takes sentences back, which no logits processor can: use conceptguard"):
        conceptguard.logits_processor(tiny_llama(), tokenizer(), SENTENCES)


def test_a_sentence_guard_that_raises_lets_no_text_out() -> None:
    class Breaks(Method):
        name = "breaks"
        needs = "nothing"

        @hookimpl
        def check_sentence(self, sentence: Sentence) -> None:
            raise ZeroDivisionError("on purpose")

    model, tok = taught(*LINES)
    heard: list[int] = []

    class Streamer:
        def put(self, value: Any) -> None:
            heard.extend(value.flatten().tolist())

        def end(self) -> None:
            raise AssertionError("ended")

    one = given(tok, "The sun was")
    with (
        offered(Breaks) as guard,
        conceptguard.attach((model, tok), {"guards": [guard]}),
        pytest.raises(GuardError, match="guard 'breaks' failed"),
    ):
        model.generate(**one, max_new_tokens=40, do_sample=False, streamer=Streamer())
    assert heard == one["input_ids"][0].tolist()


@pytest.mark.parametrize("mark", ["text", "special"])
def test_thinking_is_skipped(mark: str) -> None:
    lines = ("Q: two? <think> The sum is four.</think> Four.", "Q: red? <think>\n\n</think> Red it is.")
    model, tok = taught(*lines)
    processor = conceptguard.logits_processor(model, tok, {"guards": [{"method": "no_thinking"}]})
    prompts = {"text": "Q: two?", "special": "Q: two? <think>"}
    out = model.generate(**given(tok, prompts[mark]), max_new_tokens=40, do_sample=False, logits_processor=processor)
    text = tok.decode(out[0], skip_special_tokens=True)
    assert text.startswith("Q: two? <think>\n\n</think>") and "sum" not in text, text
    about = model.generate(**given(tok, "<think> is a mark"), max_new_tokens=4, do_sample=False)
    same = model.generate(
        **given(tok, "<think> is a mark"), max_new_tokens=4, do_sample=False, logits_processor=processor
    )
    assert torch.equal(about, same)


def test_the_example_speaks_under_its_policy(tmp_path: Path) -> None:
    model, tok = taught(*LINES)
    model.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    script = ROOT / "examples" / "language" / "say.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "The sun was"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(LINES[1]) and "phrases" in done.stdout
