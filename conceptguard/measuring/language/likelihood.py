"""How likely a language model finds given texts, under whatever guards it: token by token, after all that they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import SessionError
from ...sessions.attach import attach

if TYPE_CHECKING:
    from ...policy import Policy

LEAST = math.log(1e-6)  # what a forbidden token counts: it has no likelihood of its own
BATCH = 64

Asked = tuple[Sequence[int], Sequence[int]]
"""Ids that a model is given, and those that are to follow."""


class Follow:
    """Makes a model say given tokens, and notes how likely each was after all processors before this one.

    begin: how many tokens of a row are prompt; targets: what each row is to say; end: what it says afterwards
    noted: log p of what each row said
    """

    def __init__(self, begin: int, targets: Sequence[Sequence[int]], end: int):
        self.begin, self.targets, self.end = begin, targets, end
        self.noted: list[list[float]] = [[] for _ in targets]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        at = input_ids.shape[1] - self.begin
        likely = scores.log_softmax(-1)
        forced = torch.full_like(scores, -torch.inf)
        for row, target in enumerate(self.targets):
            token = target[at] if at < len(target) else self.end
            if at < len(target):
                self.noted[row].append(max(float(likely[row, token]), LEAST))
            forced[row, token] = 0.0
        return forced


def likelihoods(
    model: Any, tokenizer: Any, asked: Sequence[Asked], policy: Policy | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[list[float]] | None:  # fmt: skip
    """log p of each token that is to follow, as a guarded model says it; None for guards that take text back, which
    leave likelihoods alone, and for those that act inside of a model and on its scores at once.

    options: of ``generate``. The model must be unguarded and is left so.
    """
    found: list[list[float]] = []
    for first in range(0, len(asked), BATCH):
        some = asked[first : first + BATCH]
        if policy is None and not options:
            found += _plain(model, some)
        else:
            followed = _followed(model, tokenizer, some, policy, options or {})
            if followed is None:
                return None
            found += followed
    return found


@torch.no_grad()
def _plain(model: Any, asked: Sequence[Asked]) -> list[list[float]]:
    width = max(len(given) + len(target) for given, target in asked)
    rows = [[*given, *target] for given, target in asked]
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    likely = scores.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].clamp(min=LEAST)
    return [likely[i, len(given) - 1 : len(rows[i]) - 1].tolist() for i, (given, _) in enumerate(asked)]


def _followed(
    model: Any, tokenizer: Any, asked: Sequence[Asked], policy: Policy | None, options: Mapping[str, Any]
) -> list[list[float]] | None:
    from ...hosts.transformers.logits import logits_processor

    width = max(len(given) for given, _ in asked)
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(given)) + list(given) for given, _ in asked], device=model.device)
    mask = torch.tensor([[0] * (width - len(given)) + [1] * len(given) for given, _ in asked], device=model.device)
    follow = Follow(width, [target for _, target in asked], tokenizer.eos_token_id)
    longest = max(len(target) for _, target in asked)

    def say(before: Sequence[Any]) -> list[list[float]]:
        with torch.no_grad():
            model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=longest,
                logits_processor=[*before, follow], **options,
            )  # fmt: skip
        return follow.noted

    if policy is None:
        return say([])
    try:
        before = list(logits_processor(model, tokenizer, policy))
    except SessionError:  # it acts inside, or takes text back
        with attach((model, tokenizer), policy) as session:
            speaking: Any = session
            return None if speaking.takes_back or speaking.has("process_logits") else say([])
    return say(before)
