"""ROCR: what a language model makes of a name becomes what it makes of another, by terms beside its layers.

A closed form without training: the key of a name is what a layer reads at the name's last token, and the layer gains
what is missing there from the target's state. Its terms are open for prompts that a classifier of the artifact, where
it has one, reads as after the name; always otherwise, as published.
"""

from __future__ import annotations

from conceptguard.finder import Found, Search
from conceptguard.making.task import Learned, Task

from ..terms_beside import TermsBeside
from .find import ROCRFindSettings, find_places
from .make import ROCRMakeSettings, learn_redirection


class ROCR(TermsBeside):
    """Text: answers about a name as about another, by a solved edit of the feed-forward layers.

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "rocr"
    MakeSettings = ROCRMakeSettings
    FindSettings = ROCRFindSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Read keys and targets from the model, and solve; see ``make``."""
        return learn_redirection(task)

    @classmethod
    def find(cls, search: Search) -> Found:
        """Say at which layers and tokens the model reads a name; see ``find``."""
        return find_places(search)
