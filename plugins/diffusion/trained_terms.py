"""Guards that are terms which were trained: what these methods share at run time and in what they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from conceptguard.formats import read_artifact, to_kohya
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms


class TrainedTerms(Method):
    """Terms beside a model's layers, gated by the prompt. Subclass, learn.

    encoders: they lie beside text encoders alone, so that any model with the same ones takes them
    """

    encoders: ClassVar[bool] = False

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The terms, with the policy's gate."""
        assert self.artifact is not None
        return Terms(self, read_artifact(self.artifact, layers), self.gate())

    @classmethod
    def learned(
        cls, task: Task, terms: Mapping[str, Factors], own: Sequence[str], kept: Sequence[str],
        also: Sequence[str] = (), **made: Any,
    ) -> Learned:  # fmt: skip
        """The artifact of terms. own, kept: texts for its gate to open for, and to stay shut for; also: prompts of the
        concept that were found; made: how it was made, for the manifest."""
        tensors, metadata = to_kohya(terms)
        opens = Opens(list(own), list(kept))
        return Learned(tensors, task.made(seed=task.seed, **made), opens, metadata=metadata, encoders=cls.encoders,
                       also=also)  # fmt: skip
