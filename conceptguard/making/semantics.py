"""What learning something new must not lose of the class that it is of: ClassDiffusion's loss.

Huang et al., "ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance", 2024,
https://arxiv.org/abs/2405.17532. In the published code it is left out wherever prior preservation is asked for; here it
is a term like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ..protocols import TextEncoder


def summed_up(encoder: TextEncoder, ids: Sequence[int], prefix: Tensor | None = None) -> Tensor:
    """What a CLIP's states say of a whole text, with gradients: at its end token, which the pooled vector is made of.
    [1, width]. prefix: input vectors [k, hidden] before the text's own. ValueError for what is longer than the window.
    """
    states, pooled = encoder.differentiable([list(ids)], prefix)
    if states is None:
        assert pooled is not None
        return pooled
    return states[:, 1 + len(ids) + (0 if prefix is None else len(prefix))]


def semantic_preservation(own: Tensor, of_class: Tensor) -> Tensor:
    """1 − cos of what the text encoder says of texts with what is learnt, and of the same texts of the class alone:
    0 where nothing is lost, at most 2. own, of_class: as of ``summed_up``, [texts, width]."""
    return 1 - F.cosine_similarity(own.float(), of_class.to(own.device).float(), dim=-1).mean()
