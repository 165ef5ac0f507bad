"""conceptguard: say once what must not be generated; the same guards act wherever you generate.

``import conceptguard`` is light: torch and the hosts are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .errors import ConceptGuardError
    from .host import Host
    from .hosts.load import load_model
    from .hosts.transformers.logits import logits_processor
    from .markers import hookimpl
    from .method import Method, Settings
    from .plugins import host_for
    from .policy import Policy
    from .policy_file import load_policy
    from .sessions.attach import attach
    from .sessions.language import LanguageSession
    from .sessions.session import Session

_HOME = {
    "ConceptGuardError": "errors",
    "Host": "host",
    "LanguageSession": "sessions.language",
    "Method": "method",
    "Policy": "policy",
    "Session": "sessions.session",
    "Settings": "method",
    "attach": "sessions.attach",
    "hookimpl": "markers",
    "host_for": "plugins",
    "load_model": "hosts.load",
    "load_policy": "policy_file",
    "logits_processor": "hosts.transformers.logits",
}
__all__ = [
    "ConceptGuardError",
    "Host",
    "LanguageSession",
    "Method",
    "Policy",
    "Session",
    "Settings",
    "__version__",
    "attach",
    "hookimpl",
    "host_for",
    "load_model",
    "load_policy",
    "logits_processor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module 'conceptguard' has no attribute '{name}'")
