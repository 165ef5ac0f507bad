"""Which tokens a search may use.

Of a small model most of a tokenizer's words were never in a caption: their input vectors are as they were at random,
and a search among all of them finds noise. ``seen`` are the tokens of the captions that the suite knows of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from ..measuring.suite import Suite
from ..runtime.encodings import ordinary_captions

Vocabulary = Literal["seen", "full"]


def default_vocabulary(suite: Suite) -> Vocabulary:
    """``seen`` where the suite says what the model's training captions are made of."""
    return "seen" if suite.training else "full"


def tokens_of(which: Vocabulary, suite: Suite, tokenizer: Any, ids: Callable[[list[str]], list[list[int]]]) -> Tensor:
    """Ids of the tokens, sorted, [tokens]; never those by which a tokenizer marks texts, nor learnt ones.

    ids: texts -> token ids without special tokens
    """
    special = set(tokenizer.all_special_ids)
    if which == "full":
        found: Iterable[int] = range(int(tokenizer.vocab_size))
    else:
        found = {token for row in ids(_captions(suite)) for token in row}
    return torch.tensor(sorted(set(found) - special))


def _captions(suite: Suite) -> list[str]:
    """What captions are made of: wordings without their places, and words of all that the model draws."""
    wordings = [text for texts in suite.training.values() for text in texts] or [
        *suite.tuning_templates, *suite.tuning_templates_plain, *ordinary_captions(),
    ]  # fmt: skip
    things = [word for it in suite.objects for word in (it.thing, *suite.words(it.name))]
    styles = [word for style in suite.styles for word in suite.words(style)]
    return [*(re.sub(r"\{\w*\}", " ", text) for text in wordings), *things, *styles]
