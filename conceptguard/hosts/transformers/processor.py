"""A session as transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ...errors import GuardError

if TYPE_CHECKING:
    from ...protocols import SpeakingSession


class GuardProcessor(LogitsProcessor):
    """What ``generate`` asks about every token."""

    def __init__(self, session: SpeakingSession):
        self.session = session

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.session.process(input_ids, scores)


class Processors(LogitsProcessorList):
    """A policy as transformers' own list of processors; more may be appended. Made by ``logits_processor``."""

    session: SpeakingSession

    @property
    def receipt(self) -> Any:
        """What every guard did to the last generation."""
        return self.session.receipt


def with_guards(session: SpeakingSession, original: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """What ``generate`` gives with the guards at every token."""
    before = session.steps
    given = kwargs.get("logits_processor") or []
    out = original(**{**kwargs, "logits_processor": Processors([*given, GuardProcessor(session)])})
    if session.steps <= before and not session.begun:
        raise GuardError(
            "the text was generated past the guards, by a way that asks no logits processor: use generate() "
            "without custom_generate"
        )
    return out
