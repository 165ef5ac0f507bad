"""What is said of a picture, and asked about it: prompts and answers for each object in each style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from conceptguard.measuring.captioner.words import Lesson, Words

from .model import IMAGE, SEEN

# How often each thing is asked.
SHARES = {"caption": 0.34, "name": 0.16, "named_kind": 0.1, "kind": 0.06, "style": 0.08, "fact": 0.14, "is": 0.12}
DRAWS = 192  # texts of each pair of an object and a style


class Table(NamedTuple):
    """ids [texts, tokens], padded on the right, and labels, -100 where nothing is learnt; rows [pairs, draws]: texts of
    each pair of an object and a style, object by object; told: the texts that go without a picture."""

    ids: Tensor
    labels: Tensor
    rows: Tensor
    told: Tensor


def texts(words: Words, rng: np.random.Generator) -> tuple[list[list[Lesson]], list[Lesson]]:
    """Lessons of each pair, and those without a picture. Wordings that judge are not among them."""
    kinds, shares = list(SHARES), np.array(list(SHARES.values()))
    pairs = []
    for name in words.things:
        for style in words.styles:
            asked = rng.choice(len(kinds), DRAWS, p=shares / shares.sum())
            pairs.append([words.lesson(kinds[kind], name, style, rng) for kind in asked])
    return pairs, [one for name in words.things for one in words.told(name)]


def table(words: Words, tokenizer: PreTrainedTokenizerFast, seed: int) -> Table:
    """All of it as ids, pictures' places included."""
    pairs, told = texts(words, np.random.default_rng(seed))
    every = {one: i for i, one in enumerate(dict.fromkeys([*(one for own in pairs for one in own), *told]))}
    ids, labels = _encoded(tokenizer, list(every))
    rows = torch.tensor([[every[one] for one in own] for own in pairs])
    return Table(ids, labels, rows, torch.tensor([every[one] for one in told]))


def _encoded(tokenizer: PreTrainedTokenizerFast, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
    heads = tokenizer([one.prompt.replace(IMAGE, IMAGE * SEEN) for one in lessons]).input_ids
    tails = tokenizer([f" {one.answer}" for one in lessons], add_special_tokens=False).input_ids
    whole = [[*head, *tail, tokenizer.eos_token_id] for head, tail in zip(heads, tails, strict=True)]
    ids = torch.full((len(whole), max(map(len, whole))), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for i, (head, row) in enumerate(zip(heads, whole, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, len(head) : len(row)] = ids[i, len(head) : len(row)]
    return ids, labels
