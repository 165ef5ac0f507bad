"""SPM: rank-1 membranes beside linear and convolution layers, opened by the prompt.

Lyu et al., "One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications", CVPR 2024.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from conceptguard.formats import read_terms
from conceptguard.gates import Gate
from conceptguard.hookspecs import hookimpl
from conceptguard.lowrank import LayerIndex, Terms
from conceptguard.method import Method, Settings


class SPMSettings(Settings):
    """compat: "paper" adds membranes linearly in their gates; "official" reproduces the authors' inference code."""

    compat: Literal["paper", "official"] = "paper"


class SPM(Method):
    """A membrane per concept: rank-1 terms from an official or own ``*_last.safetensors``."""

    name = "spm"
    Settings = SPMSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The membrane's terms, gated by facilitated transport."""
        assert self.artifact is not None
        factors = read_terms(self.artifact.tensors(), self.artifact.metadata(), layers)
        official = self.settings.compat == "official"
        return Terms(self, factors, self._official_gate() if official else self.gate(), coupled=official)

    def _official_gate(self) -> Gate:
        gate = self.gate()
        return replace(gate, metric="official", floor=0.0, full=1.0)
