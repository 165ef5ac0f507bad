"""SIU: from one picture a model learns to see something else in a concept, and keeps what it knows of it in words.

.9 CE(new texts) + .75 KL(before ‖ after), where the divergence leaves out what is to change: places at which a text
says something else than the model did, and the vocabulary's entries of the concept's name (dual masked). Both
distributions are renormalised over the entries that are left, so that it stays a divergence; summed without that, as
one may read the paper, it can fall below zero. Terms beside the text model's layers; as published they act on every
prompt, here on those with a picture unless the policy says gate: always.

Li et al., "Single Image Unlearning: Efficient Machine Unlearning in Multimodal Large Language Models", NeurIPS 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptguard.formats.beside import read_beside
from conceptguard.markers import hookimpl
from conceptguard.method import Method
from conceptguard.runtime.within import Within

from ..seen.gate import opened_by_pictures
from .make import SIUMakeSettings, learn_from_one_picture

if TYPE_CHECKING:
    from conceptguard.making.task import Learned, Task
    from conceptguard.runtime.lowrank import LayerIndex


class SIU(Method):
    """Text: calls what a picture shows by another name, learnt from one picture of it.

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "siu"
    MakeSettings = SIUMakeSettings

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        """The artifact's terms, for prompts with a picture."""
        assert self.artifact is not None
        return Within(self, opened_by_pictures(self.guard, self.host), read_beside(self.artifact.tensors(), layers))

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train; see ``make``."""
        return learn_from_one_picture(task)
