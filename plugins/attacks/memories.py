"""Memories of forgotten concepts: the noise from which the guarded model, asked for the concept, draws its picture.

Rusanovsky et al., "Memories of Forgotten Concepts", CVPR 2025, https://arxiv.org/abs/2412.00782. The paper inverts at
guidance 7.5 with learnt empty prompts; here guidance is 1, which needs none.
"""

from __future__ import annotations

from conceptguard.attack import Ask

from .inversion import Inversion


class Memories(Inversion):
    """Noise from which the guarded model, asked for the concept, draws its picture; see its control."""

    name = "memories"
    needs = "white box"
    paper = "https://arxiv.org/abs/2412.00782"

    def prompt(self, ask: Ask) -> str:
        """The prompt for the concept."""
        return ask.wanted
