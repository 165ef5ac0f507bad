"""TINA: no words at all. The noise from which the guarded model draws the concept's picture, asked for nothing.

TINA, CVPR 2026, as others describe it; the paper optimises each step, here it is solved by fixed-point iterations (see
``inversion``).
"""

from __future__ import annotations

from .inversion import Inversion


class TINA(Inversion):
    """Noise from which the guarded model draws the concept's picture without a word; see its control."""

    name = "tina"
    needs = "white box"
