"""few_shot: the text encoder unlearns what a handful of pictures shows, in seconds.

Fuchi and Takagi, "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning", BMVC 2024.
"""

from __future__ import annotations

from conceptguard.formats import read_artifact, to_kohya
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .train import FewShotMakeSettings, unlearn


class FewShot(Method):
    """Pictures: a text encoder that unlearnt a concept from a few pictures of it, in seconds; where a prompt names it.

    Terms beside the text encoder's layers, gated by the prompt; any pipeline with that encoder takes them.
    """

    name = "few_shot"
    MakeSettings = FewShotMakeSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The terms beside the text encoder's layers, with the policy's gate."""
        assert self.artifact is not None
        return Terms(self, read_artifact(self.artifact, layers), self.gate())

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Unlearn from pictures. Raises PolicyError for pictures that are not there, ArtifactError when it fails."""
        task.check(task.settings.templates, task.settings.apart)
        found = unlearn(task)
        tensors, metadata = to_kohya(found.terms)
        opens = Opens(found.own, list(task.preserve))
        return Learned(tensors, task.made(seed=task.seed, **found.made), opens, metadata=metadata, encoders=True)
