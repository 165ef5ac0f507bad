"""What a guard does inside of a language model: terms beside layers, or a function of what layers give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .lowrank import Factors

Opens = Callable[[Sequence[int] | None, str | None], float]
"""How far a guard opens for a prompt, from its ids and text, strength included; both None where nobody has read it."""

Change = Callable[[Tensor, Tensor], Tensor]
"""(states of the open rows [rows, tokens, width], their gates [rows]) -> the states that go on, of the same shape."""


@dataclass
class Within:
    """What a guard (``owner``) does at every forward pass, and the gate that opens it for each prompt.

    factors: terms by the names of linear layers; changes: by the names of any modules, e.g. ``model.model.layers.3``,
    of which what they give, or the first of what they give, is changed
    """

    owner: object
    opens: Opens
    factors: Mapping[str, Factors] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)


def always(strength: float = 1.0) -> Opens:
    """A gate that every prompt opens."""
    return lambda ids, text: strength
