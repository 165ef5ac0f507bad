"""SAUCE: what a model sees is read as features of a sparse autoencoder, and those of a concept are silenced.

x' = x + Σ_f (scale − 1) z_f d_f over the concept's features f: what the autoencoder does not explain of x stays, and
where none of them is active x' is x to the last bit. So at every place of a picture, before the text model reads it.

"SAUCE: Selective Concept Unlearning in Vision-Language Models with Sparse Autoencoders" (2025; withdrawn by its
authors, without code or constants): the idea is built here, and nothing is claimed beside its figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.within import Within

from ..seen.gate import opened_by_pictures
from .features import Features
from .make import SAUCEMakeSettings, learn_features

if TYPE_CHECKING:
    from conceptguard.making.task import Learned, Task
    from conceptguard.runtime.lowrank import LayerIndex


class SAUCESettings(Settings):
    """scale: what the concept's features are multiplied by: 0 silences them, below 0 what they say is turned round"""

    scale: float = Field(default=0.0, ge=-8, le=1)


class SAUCE(Method):
    """Text: silences what a model that sees pictures makes of a concept in them, feature by feature.

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "sauce"
    Settings = SAUCESettings
    MakeSettings = SAUCEMakeSettings

    def __init__(self, *args: object):
        super().__init__(*args)  # type: ignore[arg-type]
        assert self.artifact is not None
        self._features = Features.read(self.artifact)

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        """A function of what the projector gives, for prompts with a picture."""
        own, scale = self._features, self.settings.scale
        changes = {own.layer: lambda states, gates: own.scaled(states, gates, scale)}
        return Within(self, opened_by_pictures(self.guard, self.host), changes=changes)

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train the autoencoder, and choose; see ``make``."""
        return learn_features(task)
