"""A policy put to work on whatever draws or speaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

from ..host import LanguageModel
from ..plugins import host_class_for
from ..policy import Policy
from ..policy_file import load_policy
from ..runtime.once import meanwhile
from ..runtime.uncollected import uncollected
from .base import BaseSession
from .claims import Claim
from .language import LanguageSession
from .module import ModuleSession
from .session import Session


@overload
def attach(target: LanguageModel, policy: str | Path | Mapping[str, Any] | Policy) -> LanguageSession: ...


@overload
def attach(target: Any, policy: str | Path | Mapping[str, Any] | Policy) -> Session: ...


def attach(target: Any, policy: str | Path | Mapping[str, Any] | Policy) -> BaseSession:
    """Attach a policy to a diffusers pipeline, classic or modular, to a language model (its transformers pipeline, or a
    pair (model, tokenizer)), in ComfyUI to a (MODEL, CLIP) pair, to a plain torch module, such as a classifier, or to
    whatever else an installed host takes.

    Gives a ``Session``, a ``LanguageSession`` for text, or a ``ModuleSession`` for a plain module. Use it as a context
    manager, or call ``detach`` yourself.
    Raises PolicyError, RegistryError, ArtifactError or BaseMismatch when a guard cannot be loaded or does not fit:
    nothing is attached then. Raises SessionError for another kind of target, and for one that is already guarded, or is
    being attached in another thread.
    """
    with uncollected():
        return _attached(target, load_policy(policy))


def _attached(target: Any, loaded: Policy) -> BaseSession:
    kind: Any = host_class_for(target)
    claim = Claim(kind.sole(target), loaded.name)
    try:
        host = kind(target)
        if host.generates == "text":
            session: BaseSession = LanguageSession(host, loaded, whole=True)
        else:
            with host.turn(), meanwhile():
                session = ModuleSession(host, loaded) if host.generates == "tensors" else Session(host, loaded)
    except BaseException:
        claim.release()
        raise
    session.claim = claim
    return session
