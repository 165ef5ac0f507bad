"""advunlearn: a text encoder that forgot a concept, trained against an attack that would bring it back.

Zhang et al., "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models", NeurIPS
2024.
"""

from __future__ import annotations

from conceptguard.making.known import check_known
from conceptguard.making.preview import previews
from conceptguard.making.task import Learned, Task

from ..trained_terms import TrainedTerms
from .settings import AdvUnlearnMakeSettings
from .train import Training


class AdvUnlearn(TrainedTerms):
    """Pictures: a text encoder that forgot a concept under attack, and kept the rest; put to work where a prompt asks.

    Terms beside the text encoder's layers, gated by the prompt; any pipeline with that encoder takes them.
    """

    name = "advunlearn"
    encoders = True
    MakeSettings = AdvUnlearnMakeSettings
    previews = True

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train the encoder to forget. Raises ArtifactError when training fails."""
        task.check(task.settings.templates)
        check_known(task)
        training = Training(task)
        with task.bar(task.settings.steps) as tick:
            terms = training.run([tick, *task.reports, *previews(task, training.denoiser, encode=training.encoded)])
        return cls.learned(task, terms, training.own, training.kept, truncation_error=0.0)
