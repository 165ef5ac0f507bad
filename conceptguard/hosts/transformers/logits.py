"""A policy for a ``generate`` of the caller's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...policy_file import load_policy
from ...sessions.language import LanguageSession
from .host import TransformersHost
from .processor import GuardProcessor, Processors

if TYPE_CHECKING:
    from ...policy import Policy


def logits_processor(model: Any, tokenizer: Any, policy: str | Path | Mapping[str, Any] | Policy) -> Processors:
    """A policy as a list of processors for ``model.generate(..., logits_processor=...)``; it may be used again.

    Its ``receipt`` is the record of the last generation. Raises as ``attach`` does, and SessionError for guards that
    take text back, which need ``attach``.
    """
    session = LanguageSession(TransformersHost((model, tokenizer)), load_policy(policy), whole=False)
    made = Processors([GuardProcessor(session)])
    made.session = session
    return made
