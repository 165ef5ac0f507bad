"""conceptguard: say once what must not be generated; the same guards act wherever you generate.

What stands here is what users and plugins import, with ``conceptguard.testing`` for a plugin's tests. All other modules
are our own: they may change from one release to the next.

``import conceptguard`` is light: torch and the hosts are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .api import evaluate, import_artifact, make
    from .concept import Concept
    from .errors import (
        ArtifactError,
        BaseMismatch,
        Clarification,
        ConceptGuardError,
        GuardError,
        PolicyError,
        Refused,
        RegistryError,
        SessionError,
    )
    from .generation.conditioning import Encoded, Prompts
    from .generation.decoding import Asked, Decoding, Sentence
    from .generation.denoising import Conditions, Step
    from .generation.images import Images
    from .host import Host
    from .hosts.load import load_model
    from .hosts.transformers.logits import logits_processor
    from .making.task import Learned, Opens, Task
    from .markers import hookimpl
    from .method import Method, Settings
    from .plugins import host_for
    from .policy import Policy
    from .policy_file import load_policy
    from .receipt import Receipt, Verdict
    from .records.credentials import Credentials
    from .records.pictures import read_picture, save_picture
    from .records.tracing import instrument
    from .registry import Artifact
    from .runtime.gates import Gate
    from .runtime.lowrank import Factors, LayerIndex, Terms
    from .sessions.attach import attach
    from .sessions.language import LanguageSession
    from .sessions.session import Session

_HOME = {
    "Artifact": "registry",
    "ArtifactError": "errors",
    "Asked": "generation.decoding",
    "BaseMismatch": "errors",
    "Clarification": "errors",
    "Concept": "concept",
    "Credentials": "records.credentials",
    "ConceptGuardError": "errors",
    "Conditions": "generation.denoising",
    "Decoding": "generation.decoding",
    "Encoded": "generation.conditioning",
    "Factors": "runtime.lowrank",
    "Gate": "runtime.gates",
    "GuardError": "errors",
    "Host": "host",
    "Images": "generation.images",
    "LanguageSession": "sessions.language",
    "LayerIndex": "runtime.lowrank",
    "Learned": "making.task",
    "Method": "method",
    "Opens": "making.task",
    "Policy": "policy",
    "PolicyError": "errors",
    "Prompts": "generation.conditioning",
    "Receipt": "receipt",
    "Refused": "errors",
    "RegistryError": "errors",
    "Sentence": "generation.decoding",
    "Session": "sessions.session",
    "SessionError": "errors",
    "Settings": "method",
    "Step": "generation.denoising",
    "Task": "making.task",
    "Terms": "runtime.lowrank",
    "Verdict": "receipt",
    "attach": "sessions.attach",
    "evaluate": "api",
    "hookimpl": "markers",
    "host_for": "plugins",
    "import_artifact": "api",
    "instrument": "records.tracing",
    "load_model": "hosts.load",
    "load_policy": "policy_file",
    "logits_processor": "hosts.transformers.logits",
    "make": "api",
    "read_picture": "records.pictures",
    "save_picture": "records.pictures",
}
__all__ = [
    "Artifact",
    "ArtifactError",
    "Asked",
    "BaseMismatch",
    "Clarification",
    "Concept",
    "ConceptGuardError",
    "Conditions",
    "Credentials",
    "Decoding",
    "Encoded",
    "Factors",
    "Gate",
    "GuardError",
    "Host",
    "Images",
    "LanguageSession",
    "LayerIndex",
    "Learned",
    "Method",
    "Opens",
    "Policy",
    "PolicyError",
    "Prompts",
    "Receipt",
    "Refused",
    "RegistryError",
    "Sentence",
    "Session",
    "SessionError",
    "Settings",
    "Step",
    "Task",
    "Terms",
    "Verdict",
    "__version__",
    "attach",
    "evaluate",
    "hookimpl",
    "host_for",
    "import_artifact",
    "instrument",
    "load_model",
    "load_policy",
    "logits_processor",
    "make",
    "read_picture",
    "save_picture",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module 'conceptguard' has no attribute '{name}'")
