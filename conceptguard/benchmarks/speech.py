"""What a bank of phrases costs whole answers: tokens a second of a model under it, beside the same model bare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

from ..sessions.attach import attach
from .logits import phrases, policy

STARTS = ("The", "Question: Where was", "On which", "Who was", "In the", "A", "When did", "Answer:")


def beside_bare(
    pair: Any, count: int, batches: Sequence[int], tokens: int, rounds: int, clock: Callable[[], float],
    tick: Callable[[int], None],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for every size of batch. In each round both say the same prompts, by sampling from the same seed, in turn.

    ratio_bare: our time a token over the bare model's, a median of the rounds'; same: share of answers that are the
    bare model's, token for token
    """
    model, tokenizer = pair
    bare = model.sharing() if hasattr(model, "sharing") else copy.deepcopy(model)
    with attach(pair, policy(phrases(count))):
        for rows in batches:
            prompts = [STARTS[i % len(STARTS)] for i in range(rows)]
            given = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left",
                              return_token_type_ids=False)  # fmt: skip
            taken: dict[str, list[float]] = {"ours": [], "bare": []}
            same = 0
            for turn in range(rounds + 1):  # the first to warm up
                said = {}
                for name, one in (("bare", bare), ("ours", model)):
                    torch.manual_seed(turn)
                    begin = clock()
                    out = one.generate(**given, max_new_tokens=tokens, do_sample=True)
                    spent = clock() - begin
                    said[name] = out[:, given["input_ids"].shape[1] :]
                    # A batch goes on until its last row has ended: what it costs is its columns.
                    taken[name].append(spent / said[name].shape[1])
                if turn:
                    same += _same(said["ours"].tolist(), said["bare"].tolist())
                tick(1)
            mine, theirs = taken["ours"][1:], taken["bare"][1:]
            yield {
                "phrases": count, "batch": rows, "ratio_bare": median(a / b for a, b in zip(mine, theirs)),
                "tokens_a_second": rows / median(mine), "tokens_a_second_bare": rows / median(theirs),
                "same": same / (rounds * rows),
            }  # fmt: skip


def _same(ours: list[list[int]], bare: list[list[int]]) -> int:
    """How many rows are the same, whatever fills them up."""
    return sum(
        all(x == y for x, y in zip(mine, theirs)) and len(set(mine[len(theirs) :] + theirs[len(mine) :])) < 2
        for mine, theirs in zip(ours, bare)
    )
