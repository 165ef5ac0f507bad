"""Four-bit weights: what unlearning moved by less than a step of the rounding falls back to where it was.

Every linear layer but the head is rounded to the nearest of 15 levels, in groups of 64 weights of a row with the
largest one as their scale, in plain torch. Real quantisers differ: bitsandbytes' nf4 has levels at quantiles of a
normal distribution, GPTQ and AWQ choose by what calibration texts need, llama.cpp's k-quants have two scales. The
control is noise as large, layer by layer.

Zhang et al., "Catastrophic Failure of LLM Unlearning via Quantization", ICLR 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from conceptguard.text_attack import TextAttack

if TYPE_CHECKING:
    from conceptguard.text_attack import Lessons, TextBudget

GROUP = 64
LEVELS = 7  # on either side of nought


class FourBit(TextAttack):
    """Weights rounded to four bits on a copy, then the questions as they are."""

    name = "four_bit"
    needs = "weights"
    paper = "Zhang et al., ICLR 2025"

    @classmethod
    def change(cls, model: Any, lessons: Lessons, budget: TextBudget, random: torch.Generator, by_chance: bool) -> None:
        """In place; tied weights of a head stay."""
        head = model.get_output_embeddings()
        with torch.no_grad():
            for module in model.modules():
                weight = getattr(module, "weight", None)
                if module is head or weight is None or weight.ndim != 2 or isinstance(module, torch.nn.Embedding):
                    continue
                moved = rounded(weight) - weight
                if by_chance:
                    noise = torch.randn(weight.shape, generator=random).to(weight)
                    moved = noise * (moved.norm() / noise.norm())
                weight += moved


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """A matrix [out, in] at the nearest four-bit levels of its groups; the last group of a row may be smaller."""
    groups = [part for part in weight.float().split(GROUP, dim=1)]
    found = []
    for part in groups:
        scale = part.abs().amax(1, keepdim=True).clamp(min=1e-12) / LEVELS
        found.append((part / scale).round() * scale)
    return torch.cat(found, 1).to(weight.dtype)
