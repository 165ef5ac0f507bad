"""LoRA: an erased or suppressing LoRA from anywhere (kohya, peft, diffusers) as a guard like any other.

Low-rank adaptation: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Layers of the UNet and
of the text encoders, linear and convolution. Gated by the prompt unless the policy says ``gate: always`` or a number;
with ``gate: always`` and strength 1 the result is what the host gives with the same LoRA loaded.
"""

from __future__ import annotations

from conceptguard.formats import read_artifact
from conceptguard.markers import hookimpl
from conceptguard.method import Method
from conceptguard.runtime.lowrank import LayerIndex, Terms


class LoRA(Method):
    """Terms of any rank from a published LoRA file, per row and beside any other guard."""

    name = "lora"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The LoRA's terms with the policy's gate."""
        assert self.artifact is not None
        return Terms(self, read_artifact(self.artifact, layers), self.gate())
