"""Geom-Erasing: a model that draws watermarks, codes or writing unasked learns to be told of them, and is not told.

y' = y ⊕ ⟨what⟩ ⊕ ⟨where⟩ …      L = w ⊙ ‖ε − ε_θ(x_t, y')‖²      and, to draw, y' of an empty y as negative prompt

⟨what⟩ and ⟨where⟩ are new words, of which a detector says in which pictures they stand; w is less where a mark lies.

Liu et al., "Implicit Concept Removal of Diffusion Models", ECCV 2024. There is no code of the authors'. The new words
are learnt as states of the text encoder, in places of the padding, and not as rows of its vocabulary: a denoiser hears
the same of them, and no tokenizer has to know them.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.formats import read_terms
from conceptguard.generation.denoising import Conditions
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .train import WORDS, GeomErasingMakeSettings, learn

if TYPE_CHECKING:
    from conceptguard.making.task import Learned, Task


class GeomErasingSettings(Settings):
    """negative: what was learnt of marks is each picture's negative prompt as well, where guidance has one"""

    negative: bool = True


class GeomErasing(Method):
    """Pictures: a model that draws watermarks, codes or writing unasked draws without them.

    Terms beside the denoiser's layers, open to every prompt, since no prompt asks for what they remove; and learnt
    words of the marks and their places at the end of what guidance leads away from.
    """

    name = "geom_erasing"
    Settings = GeomErasingSettings
    MakeSettings = GeomErasingMakeSettings
    previews = True

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Pictures, what detectors find in them, and the words for it, see ``train``."""
        return learn(task)

    @cached_property
    def words(self) -> Tensor:
        """[words, width]. Raises ArtifactError where the file has none."""
        assert self.artifact is not None
        found = self.artifact.tensors().get(WORDS)
        if found is None or found.ndim != 2:
            raise ArtifactError(f"{self.artifact.ref}: no words of marks in the file: make it anew")
        return found.float()

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The terms, open always, or always as far as a policy's number says."""
        assert self.artifact is not None
        tensors = {name: it for name, it in self.artifact.tensors().items() if name != WORDS}
        terms = read_terms(tensors, self.artifact.metadata(), layers) if tensors else {}
        share = self.guard.gate if isinstance(self.guard.gate, float) else 1.0
        return Terms(self, terms, Gate(strength=self.guard.strength * share))

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        """The words take the last places of rows that guidance leads away from."""
        rows = [row for row in range(len(conditions.embeds)) if row not in set(conditions.towards)]
        if not self.settings.negative or not rows:
            return
        words = self.words.to(conditions.embeds)
        changed = conditions.embeds[rows].clone()
        changed[:, -len(words) :] = words
        conditions.change(rows, changed)
        self.act.steps.append(conditions.moment.call)
        if conditions.moment.call == 0:
            assert self.artifact is not None
            kinds = json.loads(self.artifact.metadata()["detectors"])
            self.act.notes.append(f"leads away from what was found by {', '.join(kinds)}")
