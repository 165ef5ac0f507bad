"""few_shot: the text encoder unlearns what a handful of pictures shows, in seconds.

Fuchi and Takagi, "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning", BMVC 2024.
"""

from __future__ import annotations

from conceptguard.making.task import Learned, Task

from ..trained_terms import TrainedTerms
from .train import FewShotMakeSettings, unlearn


class FewShot(TrainedTerms):
    """Pictures: a text encoder that unlearnt a concept from a few pictures of it, in seconds; where a prompt names it.

    Terms beside the text encoder's layers, gated by the prompt; any pipeline with that encoder takes them.
    """

    name = "few_shot"
    encoders = True
    MakeSettings = FewShotMakeSettings
    previews = True

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Unlearn from pictures. Raises PolicyError for pictures that are not there, ArtifactError when it fails."""
        task.check(task.settings.templates, task.settings.apart)
        found = unlearn(task)
        return cls.learned(task, found.terms, found.own, task.preserve, **found.made)
