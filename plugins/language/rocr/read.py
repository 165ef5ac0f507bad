"""What a layer reads, and what the model has made of a text, at the tokens of a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from conceptguard.errors import PolicyError

FORMS: tuple[Callable[[str], str], ...] = (str, str.lower, str.upper)
"""In which a text, the name in it included, may be written."""


def placed(template: str, name: str, form: Callable[[str], str] = str) -> tuple[str, str]:
    """A template with a name in it, all in one form; and the name in that form."""
    return form(template.replace("{}", name)), form(name)


def tokens_of(host: Any, text: str, name: str) -> tuple[list[int], list[int]]:
    """The ids of a text, and which of them are a name's. Raises PolicyError where they cannot be told."""
    if not host.tokenizer.is_fast:
        raise PolicyError(
            f"rocr needs to know which tokens are a name's, and a {type(host.tokenizer).__name__} does not tell: give "
            "the model's fast tokenizer"
        )
    begin = text.index(name)
    read = host.tokenizer(text, return_offsets_mapping=True)
    spans = list(enumerate(read["offset_mapping"]))
    own = [i for i, (a, b) in spans if b > begin and a < begin + len(name) and b > a]
    if not own:
        raise PolicyError(f"rocr: the model's tokenizer reads nothing in {name!r}: give a name that it has tokens for")
    return list(read["input_ids"]), own


def led(own: int, goal: int) -> list[int]:
    """Which of the target's tokens each of a name's is led to: counted from the last ones, which are alike."""
    return [max(goal - own + at, 0) for at in range(own)]


def second_moments(host: Any, texts: Sequence[str], names: Sequence[str], tick: Any) -> dict[str, Tensor]:
    """E[k kᵀ] of what each layer reads of texts, over all tokens, [in, in], fp64."""
    found: dict[str, Tensor] = {}
    count = 0
    for step, text in enumerate(texts):
        ids = host.tokenizer(text).input_ids
        read, _ = host.read_inside(ids, names)
        count += len(ids)
        for name in names:
            rows = read[name].double()
            found[name] = found.get(name, torch.zeros(rows.shape[1], rows.shape[1]).to(rows)) + rows.T @ rows
        tick(step)
    return {name: total / max(count, 1) for name, total in found.items()}
