"""Rows that were measured, kept as they are found: an attack that was interrupted goes on with the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.atomic import write_bytes
from ..files.paths import slug
from ..policy import Policy
from ..registry import default_registry
from ..registry.cache import cache_folder
from ..version import __version__


class Kept:
    """A folder of rows. terms: all that decides a figure beside the attack and its concept, as plain data."""

    def __init__(self, terms: Mapping[str, Any], again: bool = False):
        said = json.dumps({"version": __version__, **terms}, sort_keys=True, default=str)
        self.folder = cache_folder() / "redteam" / hashlib.sha256(said.encode()).hexdigest()[:24]
        self._again = again

    def get(self, attack: str, concept: str) -> tuple[dict[str, Any], Tensor] | None:
        """The row and its pictures, uint8 [asks, 3, h, w]; None where it is not there, or no longer whole."""
        from safetensors.torch import load

        if self._again:
            return None
        try:
            path = self._path(attack, concept)
            row = json.loads(path.with_suffix(".json").read_bytes())
            return row, load(path.with_suffix(".safetensors").read_bytes())["pictures"]
        except Exception:  # not there, or damaged: it is measured again
            return None

    def put(self, attack: str, concept: str, row: Mapping[str, Any], pictures: Tensor) -> None:
        """The row comes last: without it nothing counts as measured."""
        from safetensors.torch import save

        path = self._path(attack, concept)
        write_bytes(path.with_suffix(".safetensors"), save({"pictures": pictures.contiguous()}))
        write_bytes(path.with_suffix(".json"), json.dumps(row).encode())

    def _path(self, attack: str, concept: str) -> Path:
        return self.folder / f"{attack}--{slug(concept)}"


def told_of(policy: Policy) -> dict[str, Any]:
    """A policy with the hashes of its artifacts' files: the same names may stand for other weights tomorrow."""
    registry = default_registry()
    hashes = {
        guard.artifact: sorted(file.sha256 for file in registry.load(guard.artifact).manifest.files)
        for guard in policy.guards
        if guard.artifact
    }
    return {"policy": policy.model_dump(mode="json"), "files": hashes}
