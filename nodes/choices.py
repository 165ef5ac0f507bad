"""What the nodes' lists offer: the registry's artifacts, installed methods, and policies by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths

from conceptguard import load_policy
from conceptguard.errors import PolicyError
from conceptguard.plugins import methods as installed
from conceptguard.policy import Policy
from conceptguard.policy_file import shipped_policies, shipped_policy
from conceptguard.registry import Entry, default_registry
from conceptguard.registry.remote import RemoteSource

NONE = "none"
OF_ARTIFACT = "the artifact's own"
FOLDER = "conceptguard"  # below ComfyUI's models: an operator's policy files


def artifacts() -> list[dict[str, Any]]:
    """The registry's artifacts as the page lists them."""
    registry = default_registry()
    return [
        {"ref": e.ref, "concept": e.concept, "method": e.method, "base": e.base, "prompts": list(e.prompts),
         "licence": e.licence, "card": dict(e.card or {}), "picture": bool(e.picture), "source": e.source,
         "signed": registry.standing(e)}
        for e in registry.entries()
    ]  # fmt: skip


def entry(ref: str) -> Entry:
    """One artifact. Raises RegistryError with the nearest names."""
    return default_registry().find(ref)


def card(ref: str) -> Path | None:
    """The picture in an artifact's folder, checked against its manifest; None where there is none, or where it would
    have to be fetched with its weights first. Raises ArtifactError for a picture that was altered."""
    source = next((s for s in default_registry().sources if s.find(ref)), None)
    if source is None or (isinstance(source, RemoteSource) and not source.pulled(ref)):
        return None
    artifact = source.load(ref)
    return artifact.path(artifact.picture.relative_to(artifact.folder).as_posix()) if artifact.picture else None


def references() -> list[str]:
    """Of all artifacts."""
    return [e.ref for e in default_registry().entries()]


def methods() -> list[dict[str, str]]:
    """Installed methods, and what a policy must give each."""
    return [{"method": name, "needs": method.needs} for name, method in installed().items()]


def methods_without_artifact() -> list[str]:
    """Methods that a concept's phrases, or nothing, is enough for."""
    return [name for name, method in installed().items() if method.needs != "artifact"]


def own_folder() -> Path:
    """The first of ComfyUI's folders models/conceptguard."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def policies() -> dict[str, Path]:
    """Policy files by name: those in ComfyUI's models/conceptguard, then the shipped ones."""
    own_folder()
    own = {
        path.name: path
        for folder in folder_paths.get_folder_paths(FOLDER)
        for path in sorted(Path(folder).glob("*.y*ml"))
        if path.is_file()
    }
    return {**shipped_policies(), **own}


def policy(name: str) -> Policy:
    """One of them. Only listed names: a graph may come from anybody, and must not read any file of the server."""
    known = policies()
    if name not in known:
        raise PolicyError(
            f"there is no policy '{name}' any more: choose another one, or put its file into ComfyUI's models/{FOLDER}"
        )
    return load_policy(shipped_policy(name) if known[name] == shipped_policies().get(name) else known[name])


def models() -> list[str]:
    """Embedded models that a MODEL can be made of, emoji-sd first."""
    found = {name for source in default_registry().sources for name in source.models()}
    return sorted(found, key=lambda name: (name != "emoji-sd", name)) or [NONE]
