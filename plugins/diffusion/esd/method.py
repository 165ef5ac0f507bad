"""ESD: layers of the denoiser that were trained to turn away from a concept.

Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023.
"""

from __future__ import annotations

from conceptguard.making.task import Learned, Task

from ..trained_terms import TrainedTerms
from .train import ESDMakeSettings, train


class ESD(TrainedTerms):
    """Pictures: layers trained to say of a concept's prompt the opposite of what they said, put to work where one asks.

    Terms beside the denoiser's layers, gated by the prompt.
    """

    name = "esd"
    MakeSettings = ESDMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train the terms. Raises ArtifactError when training fails."""
        task.check(task.settings.templates)
        found = train(task)
        return cls.learned(task, found.terms, found.own, task.kept(task.settings.templates),
                           started_at_step=found.first, loss=round(found.loss, 6))  # fmt: skip
