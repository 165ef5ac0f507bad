"""Where registries are: the one that came with this package, and the user's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from conceptguard.registry.settings import folder_named

# Models that were signed with the rest and travel in conceptguard-models, since a wheel may weigh only so much.
APART = frozenset({"emoji-flow", "emoji-sd-marked", "emoji-sd-one-step", "emoji-sd-pairs"})


def shipped_folder() -> Path:
    """The registry that came with this package (it may be absent from a bare install); found without importing it."""
    spec = importlib.util.find_spec("conceptguard_registry")
    for place in (spec.submodule_search_locations or []) if spec else []:
        return Path(place)
    return Path(__file__).resolve().parents[2] / "registry"


def user_folder() -> Path:
    """The user's own registry; CONCEPTGUARD_HOME moves it, and so does `home` in the settings file."""
    import platformdirs

    return folder_named("home") or Path(platformdirs.user_data_dir("conceptguard")) / "registry"
