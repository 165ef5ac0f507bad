"""One logits processor for one generation after another: each prompt is read, however it begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from text_guards import PHRASES, given
from tiny_language import taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer

import conceptguard
from conceptguard.generation.decoding import Decoding
from conceptguard.text.lineage import Follow

FIRST, NEXT = "a red apple on a table", " and a dog in the park"
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "without cache": {"do_sample": False, "use_cache": False},
    "beams": {"num_beams": 3},
    "drafts": {"do_sample": False, "prompt_lookup_num_tokens": 3},
}


def turns(model: Any, tok: Any, **options: Any) -> Iterator[tuple[torch.Tensor, Any]]:
    """A chat of three turns with one processor: what the model was given, and the receipt."""
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    ids = given(tok, FIRST)["input_ids"]
    for _ in range(3):
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, pad_token_id=tok.pad_token_id,
            logits_processor=processor, **options,
        )  # fmt: skip
        yield ids, processor.receipt
        ids = torch.cat([out, given(tok, NEXT)["input_ids"]], 1)


@pytest.mark.parametrize("way", OPTIONS)
@pytest.mark.parametrize("kind", [tiny_llama, tiny_gpt2])
def test_a_prompt_that_begins_as_the_last_text_is_read(kind: Any, way: str) -> None:
    tok = tokenizer()
    for ids, receipt in turns(kind(tok), tok, **OPTIONS[way]):
        assert {row.text for row in receipt.rows} == {tok.decode(ids[0], skip_special_tokens=True)}


def test_a_prompt_that_is_longer_by_one_token_is_read() -> None:
    """As the running text would go on, but for the model, which reads it from its first token on."""
    model, tok = taught("The sun was warm. The man smoked a cigarette. Then he went home.")
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    ids = given(tok, FIRST)["input_ids"]
    other = int(given(tok, " dog")["input_ids"][0, -1])
    for _ in range(3):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, logits_processor=processor)
        assert [row.text for row in processor.receipt.rows] == [tok.decode(ids[0], skip_special_tokens=True)]
        ids = torch.cat([ids, torch.tensor([[other]])], 1)


def test_an_encoder_reads_its_next_text() -> None:
    tok = tokenizer("sentencepiece")
    model = tiny_t5(tok)
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    for text in (FIRST, FIRST + NEXT):
        model.generate(given(tok, text)["input_ids"], max_new_tokens=3, logits_processor=processor)
        assert [row.text for row in processor.receipt.rows] == [text]


def test_a_generation_is_one_generation() -> None:
    """Nothing of its own is taken for a prompt: every token is told in one receipt, and the prompt stays as it was."""
    tok = tokenizer()
    model = tiny_llama(tok)
    for way, options in OPTIONS.items():
        processor = conceptguard.logits_processor(model, tok, PHRASES)
        batch = given(tok, FIRST, "a table")
        model.generate(
            **{name: rows[:1] if way == "drafts" else rows for name, rows in batch.items()}, max_new_tokens=8,
            min_new_tokens=8, pad_token_id=tok.pad_token_id, logits_processor=processor, **options,
        )  # fmt: skip
        assert processor.receipt.steps == 8, way
        assert [row.text for row in processor.receipt.rows] == [FIRST, "a table"][: 1 if way == "drafts" else 2]


def test_what_a_guard_knows_of_a_text_without_a_prompt_is_not_of_the_next_ones() -> None:
    """After a generation from embeddings, whose ids begin with what was said."""

    def decoding(ids: list[int], begin: int, came: Any, call: int) -> Any:
        last = ids[-1:] if len(ids) > begin else []
        return Decoding(
            torch.tensor([ids], dtype=torch.long), last, torch.zeros(1, 9), begin, None, [0], came, None, call,
        )  # type: ignore[arg-type]  # fmt: skip

    follow = Follow[tuple[Any, ...]](tuple, lambda state, token, first: (*state, (token, first)))
    assert follow(decoding([], 0, [(-1, 0)], 1)) == [()]
    assert follow(decoding([5], 0, None, 2)) == [((5, True),)]
    assert follow(decoding([1, 2], 2, [(-1, 0)], 4)) == [((1, False), (2, False))]
    assert follow(decoding([1, 2, 3], 2, None, 5)) == [((1, False), (2, False), (3, True))]
