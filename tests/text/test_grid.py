"""Scores changed in place: what is closed is closed, and no other row's score with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from text_guards import PHRASES, Reader, given
from tiny_language import tiny_llama, tokenizer

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.decoding import LISTED, Decoding
from conceptguard.testing.kit_guards import offered
from conceptguard.text.grid import Columns, grid_of

KINDS = [
    pytest.param(torch.float32, "cpu", id="numpy"),
    pytest.param(torch.bfloat16, "cpu", id="torch"),
    pytest.param(torch.float32, "cuda", id="cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("dtype", "device"), KINDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_cells(dtype: torch.dtype, device: str, rows: int) -> None:
    scores = torch.arange(rows * 200, dtype=dtype, device=device).view(rows, 200)
    expected, before = scores.clone(), scores.clone()
    grid, columns = grid_of(scores), Columns([3, 199])
    many = Columns(np.arange(20, 150))
    for closed in (columns, many):
        out = grid.swap(grid.columns(closed), -math.inf)
        ids = torch.from_numpy(closed.ids)
        assert grid.numbers(out).tolist() == before[:, ids].float().flatten().tolist()
        assert grid.top(out) == float(before[:, ids].max())
        expected[:, ids] = -math.inf
    own = {row: [0, 5 + row] for row in reversed(range(rows))}
    cells = grid.cells(own)
    grid.swap(cells, np.arange(len(cells), dtype=np.float32))
    for at, (row, tokens) in enumerate(own.items()):
        expected[row, tokens] = torch.tensor([2.0 * at, 2.0 * at + 1], dtype=dtype, device=device)
    assert torch.equal(scores, expected)
    assert grid.at(cells).tolist() == [*range(len(cells))]
    assert grid.best() == expected.float().amax(1).tolist()
    assert grid.said([4] * rows) == expected[:, 4].tolist()


@pytest.mark.parametrize(("dtype", "device"), KINDS)
def test_tokens_that_the_model_does_not_have(dtype: torch.dtype, device: str) -> None:
    """A cell beyond a row would be the next row's."""
    scores = torch.zeros(2, 10, dtype=dtype, device=device)
    grid = grid_of(scores)
    for tokens in ({0: [10]}, {0: [-1]}, {0: [1], 1: [3, 10]}, {2: [1]}):
        with pytest.raises(IndexError, match="the model gives 2 rows 10 scores each"):
            grid.cells(tokens)
    with pytest.raises(IndexError, match="the model gives 2 rows 10 scores each"):
        grid.columns(Columns([0, 10]))
    assert not scores.any()


def test_a_guard_that_forbids_them() -> None:
    class Beyond(Method):
        name = "beyond"
        needs = "nothing"

        @hookimpl
        def process_logits(self, decoding: Decoding) -> None:
            decoding.forbid(self, {0: [decoding.scores.shape[1]]})

    tok, model = tokenizer(), tiny_llama()
    with offered(Beyond) as guard:
        processor = conceptguard.logits_processor(model, tok, {"guards": [guard]})
        with pytest.raises(GuardError, match=r"guard 'beyond' failed \(IndexError"):
            model.generate(**given(tok, "a", "a dog"), max_new_tokens=3, logits_processor=processor)


def test_scores_that_lie_apart() -> None:
    """A view of other scores, as a loop of one's own may pass."""
    tok, model = tokenizer(), tiny_llama()
    (processor,) = conceptguard.logits_processor(model, tok, PHRASES)
    ids, whole = torch.tensor([[5, 6], [7, 8]]), torch.randn(2, len(tok))
    (apart,) = conceptguard.logits_processor(model, tok, PHRASES)
    expected = processor(ids, whole.clone())
    assert torch.equal(apart(ids, whole.T.contiguous().T), expected) and bool((expected == -torch.inf).any())


def test_a_receipt_lists_the_likeliest() -> None:
    tok, model = tokenizer(), tiny_llama()
    with offered(Reader) as guard:  # forbids the tokens from 100 to 400
        made = conceptguard.logits_processor(model, tok, {"guards": [guard]})
        scores = torch.full((2, len(tok)), -50.0)
        likely = torch.arange(390, 400)
        scores[1, likely] = likely / 100.0
        made[0](torch.tensor([[5, 6], [7, 8]]), scores)
    far, near = made.receipt.acts[0].touched
    assert (far.row, near.row) == (0, 1) and len(far.tokens) == LISTED
    assert near.tokens == [tok.decode([token]) for token in reversed(likely.tolist()[-LISTED:])]
