"""ROCR: what a language model makes of a name becomes what it makes of another, by terms beside its layers.

A closed form without training: the key of a name is what a layer reads at the name's last token, and the layer gains
what is missing there from the target's state. Its terms are open for prompts that a classifier of the artifact, where
it has one, reads as after the name; always otherwise, as published.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from conceptguard.errors import ArtifactError
from conceptguard.formats.beside import read_beside
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex
from conceptguard.runtime.within import Opens, Within, always

from ..classifier.wording import Wording
from .make import ROCRMakeSettings, learn_redirection


class ROCRSettings(Settings):
    """threshold: from which probability a prompt is after the name, where the artifact has a classifier"""

    threshold: float = Field(default=0.5, gt=0, lt=1)


class ROCR(Method):
    """Text: answers about a name as about another, by a solved edit of the feed-forward layers.

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "rocr"
    Settings = ROCRSettings
    MakeSettings = ROCRMakeSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        assert self.artifact is not None
        tensors = self.artifact.tensors()
        own = {n.removeprefix("classifier."): t for n, t in tensors.items() if n.startswith("classifier.")}
        try:
            self._wording = Wording.read(own) if own else None
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            raise ArtifactError(f"{self.artifact.ref} has no sound classifier ({error}): make it again") from None

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        """The edit's terms, beside the layers that the artifact names."""
        assert self.artifact is not None
        return Within(self, self._opens(), read_beside(self.artifact.tensors(), layers))

    def _opens(self) -> Opens:
        guard, wording = self.guard, self._wording
        if isinstance(guard.gate, float):
            return always(guard.strength * guard.gate)
        if guard.gate == "always" or wording is None:
            return always(guard.strength)
        least = math.log(self.settings.threshold / (1 - self.settings.threshold))

        def opens(ids: Any, text: str | None) -> float:
            return guard.strength if text is None or wording.logit(text) >= least else 0.0

        return opens

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Read keys and targets from the model, and solve; see ``make``."""
        return learn_redirection(task)
