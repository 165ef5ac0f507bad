"""Decoded images, as guards look at them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..receipt import Verdict


@dataclass
class Images:
    """Decoded images [n, 3, height, width] in [0, 1], the prompts they came from, and the verdicts so far."""

    pixels: torch.Tensor
    prompts: list[str | None]
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def flagged(self) -> list[int]:
        """The images that a guard flagged."""
        return sorted({v.image for v in self.verdicts if v.flagged})

    def mended(self, fresh: Images) -> Images:
        """The same images, flagged ones replaced by those of ``fresh`` at their places, with these ones' verdicts."""
        rows = self.flagged
        pixels = self.pixels.clone()
        pixels[rows] = fresh.pixels[rows].to(pixels)
        kept = [v for v in self.verdicts if v.image not in rows]
        return Images(pixels, self.prompts, kept + [v for v in fresh.verdicts if v.image in rows])
