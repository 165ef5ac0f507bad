"""Pictures of concepts that somebody has, for searches that begin with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ConceptGuardError
from ..files.pictures import SUFFIXES, open_picture


def examples_of(folder: Path, concepts: Sequence[str]) -> dict[str, Tensor]:
    """Of each concept the pictures in ``folder/CONCEPT``, uint8 [n, 3, side, side], the middle of those that are not
    square, all of the first one's size. Raises ConceptGuardError for a concept without a picture, and what is none.
    """
    from PIL import ImageOps

    found = {}
    for concept in concepts:
        own = folder / concept
        files = sorted(path for path in own.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ConceptGuardError(f"--examples {folder}: no pictures of {concept}: put some into {own}")
        pictures = [open_picture(file) for file in files]
        side = min(pictures[0].size)
        square = [np.asarray(ImageOps.fit(one, (side, side))) for one in pictures]
        found[concept] = torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2).contiguous()
    return found
