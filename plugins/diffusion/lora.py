"""LoRA: an erased or suppressing LoRA from anywhere (kohya, peft, diffusers) as a guard like any other.

Low-rank adaptation: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Layers of the UNet and
of the text encoders, linear and convolution. Gated by the prompt unless the policy says ``gate: always`` or a number;
with ``gate: always`` and strength 1 the result is what the host gives with the same LoRA loaded.
"""

from __future__ import annotations

from typing import Literal

from conceptguard.formats import read_artifact
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms


class LoRASettings(Settings):
    """missing_alpha: of a layer without one in a file where others have it. "rank", as kohya's scripts and ComfyUI read
    it, so that the layer's scale is 1; "common", the most frequent one, as diffusers reads it.
    """

    missing_alpha: Literal["rank", "common"] = "rank"


class LoRA(Method):
    """Pictures: an erasing LoRA from anywhere, put to work only where a prompt names the concept.

    Terms of any rank from a published LoRA file, per row and beside any other guard.
    """

    name = "lora"
    Settings = LoRASettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The LoRA's terms with the policy's gate."""
        assert self.artifact is not None
        missing = self.settings.missing_alpha
        factors = read_artifact(self.artifact, layers, base_weights=self.host.weights(), missing_alpha=missing)
        return Terms(self, factors, self.gate())
