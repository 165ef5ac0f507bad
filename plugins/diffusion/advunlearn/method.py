"""advunlearn: a text encoder that forgot a concept, trained against an attack that would bring it back.

Zhang et al., "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models", NeurIPS
2024.
"""

from __future__ import annotations

from conceptguard.formats import read_artifact, to_kohya
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .settings import AdvUnlearnMakeSettings
from .train import Training


class AdvUnlearn(Method):
    """Pictures: a text encoder that forgot a concept under attack, and kept the rest; put to work where a prompt asks.

    Terms beside the text encoder's layers, gated by the prompt; any pipeline with that encoder takes them.
    """

    name = "advunlearn"
    MakeSettings = AdvUnlearnMakeSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The terms beside the text encoder's layers, with the policy's gate."""
        assert self.artifact is not None
        return Terms(self, read_artifact(self.artifact, layers), self.gate())

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train the encoder to forget. Raises ArtifactError when training fails."""
        task.check(task.settings.templates)
        training = Training(task)
        with task.bar(task.settings.steps) as tick:
            terms = training.run([tick, *task.reports])
        tensors, metadata = to_kohya(terms)
        made = task.made(seed=task.seed, truncation_error=0.0)
        return Learned(tensors, made, Opens(training.own, training.kept), metadata=metadata, encoders=True)
