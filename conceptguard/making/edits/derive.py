"""The embedding that would bring a concept back past an edit (Gong et al., "RECE", ECCV 2024, equation 6).

With W' = W T the edited weights of all layers, the row whose edited outputs come nearest to those of a row c is

    c' = (ρ I + Σ W'ᵀW')⁻¹ (Σ W'ᵀW) c = (ρ I + Tᵀ G T)⁻¹ Tᵀ G c,    G = Σ WᵀW,

so that G is all that is asked of the layers, however many they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ArtifactError
from .solver import Edit


def brought_back(edit: Edit, gram: Tensor, rows: Tensor, ridge: float) -> Tensor:
    """For each row [n, d] the one whose edited outputs come nearest to the row's own, [n, d], fp64.

    gram: G, [d, d], fp64; ridge: ρ. Raises ArtifactError where none can be derived.
    """
    changed = edit.matrix()
    inner = changed.T @ gram @ changed
    inner.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(inner)
    if failed:
        raise ArtifactError("making rece: no embedding can be derived: raise regulariser")
    return torch.cholesky_solve(changed.T @ (gram @ rows.double().T), factor).T
