"""Decoded images, as guards look at them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import GuardError
from ..receipt import Verdict

# A decoder overshoots white a little, which viewers cut off. Of values up to 255 that leaves a white image, in which no
# guard finds anything.
BRIGHTEST = 2.0


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

    def demand_visible(self) -> None:
        """Raises GuardError for what nobody can look at, since a detector would find nothing in it and let it pass."""
        shape, kind = list(self.pixels.shape), str(self.pixels.dtype).removeprefix("torch.")
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            transparent = self.pixels.ndim == 4 and self.pixels.shape[1] in (2, 4)
            mend = "lay what is transparent over a colour" if transparent else "give red, green and blue"
            raise GuardError(f"guards look at images [n, 3, height, width], and these are {shape}: {mend}")
        if not self.pixels.numel():
            raise GuardError(f"there is no image to look at: these are {shape}")
        if not self.pixels.is_floating_point():
            raise GuardError(f"guards look at images in [0, 1], and these are {kind}: divide them by their white")
        if not bool(torch.isfinite(self.pixels).all()):
            row = int(torch.isfinite(self.pixels).flatten(1).all(1).logical_not().nonzero()[0])
            raise GuardError(
                f"image {row} is not finite, and no guard can tell what it shows: a model in fp16 that overflows gives "
                "such images; decode in fp32 or bf16"
            )
        if (most := float(self.pixels.max())) > BRIGHTEST:
            raise GuardError(f"guards look at images in [0, 1], and these reach {most:g}: divide them by their white")

    def as_bytes(self) -> np.ndarray:
        """What detectors read, see ``as_bytes``."""
        return as_bytes(self.pixels)


def as_bytes(pixels: torch.Tensor) -> np.ndarray:
    """Pictures [n, 3, height, width] in [0, 1] as other libraries take them: uint8 [n, height, width, 3], red first."""
    found = (pixels.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(found.cpu().numpy())
