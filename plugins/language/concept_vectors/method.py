"""Concept vectors: value vectors that hold a concept are taken out of a language model's feed-forward layers.

Hong et al., "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (arXiv 2406.11614), find in large
models single columns of ``down_proj`` that say a concept's tokens through the language-model head, and show that noise
on one of them takes the knowledge away.
"""

from __future__ import annotations

from conceptguard.finder import Found, Search
from conceptguard.making.task import Learned, Task

from ..terms_beside import TermsBeside
from .find import ConceptVectorsFindSettings, find_vectors
from .make import ConceptVectorsMakeSettings, learn_vectors


class ConceptVectors(TermsBeside):
    """Text: takes the vectors that hold a concept out of the feed-forward layers.

    It acts inside of the model: attached, not as a logits processor. A strength below 1 leaves as much of them.
    """

    name = "concept_vectors"
    MakeSettings = ConceptVectorsMakeSettings
    FindSettings = ConceptVectorsFindSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Choose vectors, and judge them; see ``make``."""
        return learn_vectors(task)

    @classmethod
    def find(cls, search: Search) -> Found:
        """Say which vectors hold a concept; see ``find``."""
        return find_vectors(search)
