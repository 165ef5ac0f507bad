"""Feature neurons: neurons whose up-projection reads as a concept through the language-model head are clamped.

Davies, "Flash Interpretability: Decoding Specialised Feature Neurons in Large Language Models with the LM-Head" (arXiv
2501.02688): a neuron of a feed-forward block is moved by a row of the up-projection, a vector of the model's width;
pushed through the head it gives the neuron's tokens. Clamped high, the model speaks of them, as the paper shows;
clamped at zero, to forget, is our use of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from conceptguard.finder import Found, Search
from conceptguard.formats.beside import read_constants
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.runtime.lowrank import LayerIndex
from conceptguard.runtime.within import Within

from ..terms_beside import TermsBeside
from .find import FeatureNeuronsFindSettings, find_neurons
from .make import FeatureNeuronsMakeSettings, learn_neurons


class FeatureNeurons(TermsBeside):
    """Text: holds the neurons that read as a concept at a value, zero to silence them.

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "feature_neurons"
    MakeSettings = FeatureNeuronsMakeSettings
    FindSettings = FeatureNeuronsFindSettings

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        """Terms that take away what the neurons write, and what they write where they are held."""
        assert self.artifact is not None
        found: Within = super().hidden_states(layers)
        found.changes = {name: _plus(held) for name, held in read_constants(self.artifact.tensors()).items()}
        return found

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Read neurons, and choose; see ``make``."""
        return learn_neurons(task)

    @classmethod
    def find(cls, search: Search) -> Found:
        """Say which neurons are a concept's; see ``find``."""
        return find_neurons(search)


def _plus(held: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A constant [width] on top of what a block gives."""
    return lambda states, gates: states + gates[:, None, None] * held.to(states)
