"""conceptguard: say once what must not be generated; the same guards act wherever you generate.

``import conceptguard`` is light: torch and the hosts are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import ConceptGuardError
    from .hookspecs import hookimpl
    from .language import LanguageSession, logits_processor
    from .method import Method, Settings
    from .models import load_model
    from .policy import Policy, load_policy
    from .session import Session, attach

_HOME = {
    "ConceptGuardError": "errors",
    "LanguageSession": "language",
    "Method": "method",
    "Policy": "policy",
    "Session": "session",
    "Settings": "method",
    "attach": "session",
    "hookimpl": "hookspecs",
    "load_model": "models",
    "load_policy": "policy",
    "logits_processor": "language",
}
__all__ = [
    "ConceptGuardError", "LanguageSession", "Method", "Policy", "Session", "Settings",
    "attach", "hookimpl", "load_model", "load_policy", "logits_processor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module 'conceptguard' has no attribute '{name}'")
