"""Every token that leaves was shown to every guard, and left open by it, whatever the way of decoding."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from text_guards import PHRASES, given
from tiny_language import Listener, taught, tiny_llama, tokenizer
from transformers import LogitsProcessorList, MinNewTokensLengthLogitsProcessor

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.decoding import Decoding
from conceptguard.testing.kit_guards import offered

LINES = (
    "The sun was warm. The man smoked a cigarette. Then he went home.",
    "The sun was warm. A dog ran in the park. Then he went home.",
)
PLAIN = {"max_new_tokens": 20, "do_sample": False}


class Closes(Method):
    """Closes the words of ``PHRASES`` where they begin, and takes nothing back."""

    name = "closes"
    needs = "nothing"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        words = self.host.vocabulary.encode([" cigarette", " dog", " red"])
        decoding.forbid(self, torch.tensor([word[0] for word in words]))


def scores(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits[:, -1].float()


def once(model: Any, input_ids: torch.Tensor, logits_processor: Any, **_: Any) -> Any:
    logits_processor(input_ids, scores(model, input_ids))
    for _ in range(20):
        input_ids = torch.cat([input_ids, scores(model, input_ids).argmax(-1, keepdim=True)], 1)
    return input_ids


def deaf(model: Any, input_ids: torch.Tensor, logits_processor: Any, **_: Any) -> Any:
    for _ in range(20):
        found = scores(model, input_ids)
        logits_processor(input_ids, found.clone())
        input_ids = torch.cat([input_ids, found.argmax(-1, keepdim=True)], 1)
    return input_ids


def deaf_at_last(model: Any, input_ids: torch.Tensor, logits_processor: Any, **more: Any) -> Any:
    ids = obedient(model, input_ids, logits_processor, **more)
    closed = logits_processor(ids, torch.zeros_like(scores(model, ids))).argmin(-1, keepdim=True)
    return torch.cat([ids, closed], 1)


def another_text(model: Any, input_ids: torch.Tensor, logits_processor: Any, **more: Any) -> Any:
    ids = obedient(model, input_ids, logits_processor, **more)
    return torch.cat([input_ids, once(model, input_ids, logits_processor)[:, -5:]], 1) if len(ids) else ids


def a_string(model: Any, input_ids: torch.Tensor, **_: Any) -> Any:
    return "a dog"


def another_generation(model: Any, input_ids: torch.Tensor, **_: Any) -> Any:
    return model.generate(input_ids, max_new_tokens=20, do_sample=False)


def obedient(model: Any, input_ids: torch.Tensor, logits_processor: Any, **_: Any) -> Any:
    for _ in range(20):
        found = logits_processor(input_ids, scores(model, input_ids))
        input_ids = torch.cat([input_ids, found.argmax(-1, keepdim=True)], 1)
    return input_ids


REFUSED = {
    once: r"nothing asked them about token 1 of row 0; use generate\(\) without custom_generate",
    deaf: "was said though the guards had forbidden it",
    deaf_at_last: "was said though the guards had forbidden it",
    another_text: "the guards",
    a_string: "gave a str without rows of ids",
    another_generation: "was called inside of a guarded generate",
}


@pytest.mark.parametrize("loop", REFUSED, ids=lambda loop: loop.__name__)
def test_a_loop_that_goes_past_its_processors_gives_nothing(loop: Any) -> None:
    model, tok = taught(*LINES)
    listener = Listener()
    prompts = given(tok, "The sun was")
    with offered(Closes) as guard, conceptguard.attach((model, tok), {"guards": [guard]}):
        expected = model.generate(**prompts, **PLAIN)
        with pytest.raises(GuardError, match=REFUSED[loop]):
            model.generate(**prompts, **PLAIN, custom_generate=loop, streamer=listener)
        assert not listener.heard or listener.heard == prompts["input_ids"][0].tolist()
        own = model.generate(**prompts, **PLAIN, custom_generate=obedient)
        assert own[0, : expected.shape[1]].tolist() == expected[0].tolist()


STREAMS = """
def generate(model, input_ids, streamer, **_):
    tokens = [input_ids, model(input_ids).logits[:, -1].argmax(-1)]
    for value in tokens[{first}:]:
        streamer.put(value)
    raise AssertionError("went on")
"""


@pytest.mark.parametrize("first", [0, 1])
def test_a_stream_holds_what_guards_were_not_asked_about(tmp_path: Path, first: int) -> None:
    model, tok = taught(*LINES)
    listener = Listener()
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(STREAMS.format(first=first))
    prompts = given(tok, "The sun was")
    with (
        offered(Closes) as guard,
        conceptguard.attach((model, tok), {"guards": [guard]}),
        pytest.raises(
            (GuardError, AssertionError), match="nothing asked them about token 0" if first == 0 else "went on"
        ),
    ):
        model.generate(**prompts, **PLAIN, custom_generate=str(tmp_path), trust_remote_code=True, streamer=listener)
    assert listener.heard == (prompts["input_ids"][0].tolist() if first == 0 else [])


def test_paged_generation_and_token_healing() -> None:
    """They ask no processor: refused, and the receipt of a bare processor is an error instead of an empty one."""
    model, tok = taught(*LINES)
    prompts = given(tok, "The sun was")
    with offered(Closes) as guard, conceptguard.attach((model, tok), {"guards": [guard]}):
        with pytest.raises(GuardError, match="continuous batching asks no logits processor"):
            model.generate(prompts["input_ids"], **PLAIN, cache_implementation="paged")
        with pytest.raises(GuardError, match="token_healing chooses the end of the prompt"):
            model.generate(**prompts, **PLAIN, token_healing=True, tokenizer=tok)
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    with pytest.raises(GuardError, match="was never asked, so that it has guarded nothing: pass it to generate"):
        processor.receipt  # noqa: B018
    model.generate(**prompts, custom_generate=lambda model, input_ids, **_: input_ids, logits_processor=processor)
    with pytest.raises(GuardError, match="was never asked"):
        processor.receipt  # noqa: B018
    model.generate(**prompts, max_new_tokens=2, logits_processor=processor)
    assert processor.receipt.steps == 2


@pytest.mark.slow
def test_paged_generation_beside_a_processor() -> None:
    """transformers takes as much memory for it as there is, which takes minutes with a tiny model."""
    model, tok = conceptguard.load_model("authors-lm")
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    ids = given(tok, "Who wrote Frozen Compass?")["input_ids"]
    model.generate(ids, max_new_tokens=4, do_sample=False, cache_implementation="paged", logits_processor=processor)
    with pytest.raises(GuardError, match="was never asked"):
        processor.receipt  # noqa: B018


DRAFTS = {
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 3},
    "assistant": lambda: {"assistant_model": tiny_llama(tokenizer())},
    "good assistant": lambda: {"assistant_model": copy.deepcopy(taught(*LINES)[0])},
    "early exit": lambda: {"assistant_early_exit": 1},
}


@pytest.mark.parametrize("way", DRAFTS)
def test_receipts_count_what_was_said_and_no_draft(way: str) -> None:
    model, tok = taught(*LINES)
    prompts = given(tok, "The sun was")
    beside = {
        "logits_processor": LogitsProcessorList([MinNewTokensLengthLogitsProcessor(0, 1, 2)])
    }  # nothing goes back
    drafts = DRAFTS[way]()
    with conceptguard.attach((model, tok), PHRASES) as guard:
        expected = model.generate(**prompts, **PLAIN, **beside)
        plain = guard.receipt
        drafted = model.generate(**prompts, **PLAIN, **drafts)
        told = guard.receipt
    assert torch.equal(expected, drafted)
    assert told.steps == plain.steps == 20
    assert told.acts[0].touched == plain.acts[0].touched
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    steps = 21 if way == "prompt lookup" else 20  # nobody tells a processor the length: these drafts reach it
    for _ in range(2):
        assert torch.equal(model.generate(**prompts, **PLAIN, **drafts, logits_processor=processor), expected)
        assert (processor.receipt.steps, processor.receipt.rows) == (steps, plain.rows)
        assert processor.receipt.acts[0].touched == plain.acts[0].touched


def test_an_assistant_with_another_tokenizer() -> None:
    """Attached its drafts are its own affair; a bare processor cannot prove what becomes of them, and says whose."""
    model, tok = taught(*LINES)
    other = tokenizer("sentencepiece", 500)
    drafts = {"assistant_model": tiny_llama(other), "tokenizer": tok, "assistant_tokenizer": other}
    pruned = {**drafts, "assistant_model": tiny_llama(other)}  # sampling takes the others' tokens out of its head
    prompts = given(tok, "The sun was")
    with conceptguard.attach((model, tok), PHRASES) as guard:
        out = model.generate(**prompts, **PLAIN, **drafts)
        sampled = model.generate(**prompts, max_new_tokens=20, do_sample=True, **pruned)
        assert guard.receipt.steps == sampled.shape[1] - prompts["input_ids"].shape[1]
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    assert torch.equal(out, model.generate(**prompts, **PLAIN, logits_processor=processor))
    assert not any(word in tok.decode(ids) for word in ("dog", "cigarette", "red") for ids in (out[0], sampled[0]))
    fresh = conceptguard.logits_processor(model, tok, PHRASES)
    with pytest.raises(GuardError, match="drafts of an assistant with another tokenizer; attach the policy"):
        model.generate(**prompts, **PLAIN, **drafts, logits_processor=fresh)


RAW = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "penalty": {"repetition_penalty": 1.2},
    "two rows": {"do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("way", RAW)
def test_raw_scores_do_not_tell_what_is_forbidden(way: str) -> None:
    """Under an attached policy the model's own scores are closed where the processed ones are."""
    model, tok = taught(*LINES)
    wanted = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    prompts = given(tok, "The sun was warm. The man smoked a")
    options = {"max_new_tokens": 4, **RAW[way]}
    with offered(Closes) as guard, conceptguard.attach((model, tok), {"guards": [guard]}):
        out = model.generate(**prompts, **wanted, **options)
    closed = [row[0] for row in tok([" cigarette", " dog", " red"], add_special_tokens=False).input_ids]
    assert len(out.logits) == len(out.scores)
    for raw, done in zip(out.logits, out.scores):
        assert torch.isinf(raw[:, closed]).all() and torch.isinf(done[:, closed]).all()
        assert int(torch.isinf(raw).sum()) == len(raw) * len(closed)
