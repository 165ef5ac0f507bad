"""What is said of a picture, and asked about it, several at once: each sees the picture and itself, and no other.

A picture costs twice what a question about it does, so that one picture is asked about several times in one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from conceptguard.measuring.captioner.words import Lesson, Words

from .model import IMAGE, SEEN

# What is asked of every picture, one of each group, and how often without it.
GROUPS = (("caption",), ("name", "named_kind", "named_kind"), ("fact", "fact", "is", "kind", "style"))
TOLD = 0.5


class Batch(NamedTuple):
    """ids, places, labels: [rows, tokens], labels -100 where nothing is learnt; mask: [rows, 1, tokens, tokens], what
    is added to attention."""

    ids: Tensor
    places: Tensor
    labels: Tensor
    mask: Tensor


def lessons_of(words: Words, name: str, style: str, rng: np.random.Generator) -> list[Lesson]:
    """Of one picture, and sometimes one that goes without. Wordings that judge are not among them."""
    found = [words.lesson(group[int(rng.integers(len(group)))], name, style, rng) for group in GROUPS]
    if rng.random() < TOLD:
        every = list(words.things)
        told = words.told(every[int(rng.integers(len(every)))])
        found.append(told[int(rng.integers(len(told)))])
    return found


def batch_of(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[Lesson]]) -> Batch:
    """Lessons of each picture in one row."""
    bos, image = tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(IMAGE)
    texts = [text for row in rows for one in row for text in (one.prompt.removeprefix(IMAGE), f" {one.answer}")]
    pieces = iter(tokenizer(texts, add_special_tokens=False).input_ids)
    begin = 1 + SEEN
    made = []
    for row in rows:
        ids, places, labels, parts = [bos] + [image] * SEEN, list(range(begin)), [-100] * begin, [0] + [1] * SEEN
        for number, one in enumerate(row, 2):
            head, tail = next(pieces), [*next(pieces), tokenizer.eos_token_id]
            seen = one.prompt.startswith(IMAGE)
            first = begin if seen else 1
            ids += [*head, *tail]
            places += range(first, first + len(head) + len(tail))
            labels += [-100] * len(head) + tail
            parts += [number if seen else -number] * (len(head) + len(tail))
        made.append((ids, places, labels, parts))
    width = max(len(ids) for ids, *_ in made)
    fills = (tokenizer.pad_token_id, 0, -100, 99)
    ids, places, labels, parts = (
        torch.tensor([row[k] + [fill] * (width - len(row[k])) for row in made]) for k, fill in enumerate(fills)
    )
    own = parts[:, :, None] == parts[:, None, :]
    prefix = (parts[:, None, :] == 0) | ((parts[:, None, :] == 1) & (parts[:, :, None] > 0))
    allowed = (own | prefix) & torch.ones(width, width, dtype=torch.bool).tril()
    return Batch(ids, places, labels, torch.where(allowed, 0.0, -1e9)[:, None])
