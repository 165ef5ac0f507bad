"""Guards that are terms beside a language model's layers, opened by the prompt: what these methods share."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from conceptguard.formats.beside import read_beside
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex
from conceptguard.runtime.within import Within

from .classifier.gate import opened_by, read_gate

_WITHIN = re.compile(r"^(.*?\.(\d+))\.(.+)$")


class TermsBesideSettings(Settings):
    """threshold: from which probability a prompt is after what was forgotten, where the artifact has a classifier"""

    threshold: float = Field(default=0.5, gt=0, lt=1)


class TermsBeside(Method):
    """Terms beside the layers that an artifact names. Subclass, learn.

    They are open for prompts that a classifier of the artifact, where it has one, reads as after what was forgotten;
    always otherwise.
    """

    Settings = TermsBesideSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        assert self.artifact is not None
        self._wording = read_gate(self.artifact, self.artifact.tensors())

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        """The artifact's terms, and what opens them."""
        assert self.artifact is not None
        opens = opened_by(self.guard, self._wording, self.settings.threshold)
        return Within(self, opens, read_beside(self.artifact.tensors(), layers))


def blocks_of(layers: Any) -> dict[int, dict[str, str]]:
    """The numbered blocks among layers of one tower: number -> {name of a linear layer within: its whole name}."""
    found: dict[int, dict[str, str]] = {}
    for name in layers:
        if within := _WITHIN.match(name):
            found.setdefault(int(within[2]), {})[within[3]] = name
    return found


def turned(host: Any, name: str) -> bool:
    """Whether a layer's weight is kept as [in, out] in the model's own files."""
    return bool(getattr(host.layers()[name], "turned", False))
