"""Edits in closed form as guards: what UCE, RECE and their like share at run time and in what they are told."""

from __future__ import annotations

from pydantic import Field

from conceptguard.formats import read_artifact
from conceptguard.making.edits import Tokens
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms


class EditSettings(Settings):
    """How an edit is solved.

    lamb: pull towards the old weights
    erase_scale, preserve_scale: weights of erased and of kept rows
    tokens: "tail", from the concept's last token to the end of padding, since a causal encoder carries the concept on;
        "last", that token alone
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    lamb: float = Field(default=0.5, gt=0)
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float = Field(default=1.0, ge=0)
    tokens: Tokens = "tail"
    templates: list[str] = ["{}"]


class ClosedForm(Method):
    """A solved edit as low-rank terms, gated by the prompt unless the policy says ``gate: always``. Subclass, learn."""

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The edit's terms on every layer that reads text."""
        assert self.artifact is not None
        factors = read_artifact(self.artifact, layers, base_weights=self.host.weights())
        return Terms(self, factors, self.gate())
