"""The registry: manifests, artifacts, and the places they come from.

Everything is imported on first use, so that `conceptguard list` starts without torch and without pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact, open_artifact
    from conceptguard.registry.client import Registry, default_registry
    from conceptguard.registry.index import Entry
    from conceptguard.registry.manifest import Base, Concept, File, Manifest
    from conceptguard.registry.places import shipped_folder
    from conceptguard.registry.reindex import rebuild_index
    from conceptguard.registry.write import write_artifact

_HOME = {
    "Artifact": "artifact",
    "open_artifact": "artifact",
    "write_artifact": "write",
    "Registry": "client",
    "default_registry": "client",
    "shipped_folder": "places",
    "Entry": "index",
    "rebuild_index": "reindex",
    "Base": "manifest",
    "Concept": "manifest",
    "File": "manifest",
    "Manifest": "manifest",
}

__all__ = [
    "Artifact",
    "Base",
    "Concept",
    "Entry",
    "File",
    "Manifest",
    "Registry",
    "default_registry",
    "open_artifact",
    "rebuild_index",
    "shipped_folder",
    "write_artifact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'conceptguard.registry' has no attribute {name!r}")
    value = getattr(import_module(f"conceptguard.registry.{_HOME[name]}"), name)
    globals()[name] = value
    return value
