"""A policy for a ``generate`` of the caller's own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...policy_file import load_policy
from ...sessions.language import LanguageSession
from .host import TransformersHost
from .processor import GuardProcessor, Processors

_HALF = (
    "guard '{}' will leave half of a word that it forbids: this model is compiled, or another one that speaks stands "
    "in it, so that a logits processor cannot ask it which words it is about to say; use conceptguard.attach((model, "
    "tokenizer), policy) and the model's own generate()"
)

_SOME = (
    "guard '{}' forbids words, and a logits processor takes nothing back: it asks the model before a word begins, and "
    "may still leave half of one where tokens are sampled, or many words are forbidden at once; "
    "conceptguard.attach((model, tokenizer), policy) takes words back"
)

if TYPE_CHECKING:
    from ...policy import Policy


def logits_processor(model: Any, tokenizer: Any, policy: str | Path | Mapping[str, Any] | Policy) -> Processors:
    """A policy as a list of processors for ``model.generate(..., logits_processor=...)``; it may be used again.

    Its ``receipt`` is the record of the last generation. Raises as ``attach`` does, and SessionError for guards that
    take text back, which need ``attach``. Warns that a guard may leave half of a word that it forbids, or will, since
    the model cannot be asked which words it is about to say.
    """
    session = LanguageSession(TransformersHost((model, tokenizer)), load_policy(policy), whole=False)
    told = _SOME if session.host.foresees else _HALF
    for method in session.methods:
        if method.regrets:
            warnings.warn(told.format(method.guard.label), stacklevel=2)
    made = Processors([GuardProcessor(session)])
    made.session = session
    return made
