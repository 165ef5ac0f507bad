"""A policy as transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ...policy_file import load_policy
from ...sessions.language import LanguageSession
from .host import TransformersHost

if TYPE_CHECKING:
    from ...policy import Policy
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


def logits_processor(model: Any, tokenizer: Any, policy: str | Path | Mapping[str, Any] | Policy) -> Processors:
    """A policy as a list of processors for ``model.generate(..., logits_processor=...)``; it may be used again.

    Its ``receipt`` is the record of the last generation. Raises as ``attach`` does, and SessionError for guards that
    take text back, which need ``attach``.
    """
    session = LanguageSession(TransformersHost((model, tokenizer)), load_policy(policy), whole=False)
    made = Processors([GuardProcessor(session)])
    made.session = session
    return made
