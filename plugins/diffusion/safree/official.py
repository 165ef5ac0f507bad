"""The work of SAFREE's projection as the authors' code orders it, to be timed and compared against ours.

One prompt at a time, a loop over its tokens, and projectors as width × width matrices from pseudo-inverses of Gram
matrices. Written from the formulas; Yoon et al., "SAFREE", ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .math import basis, beta, distances, projected, triggers


def projector(vectors: Tensor) -> Tensor:
    """C (CᵀC)⁺ Cᵀ for vectors [n, width] as columns: [width, width]."""
    columns = vectors.T
    return columns @ torch.linalg.pinv(columns.T @ columns) @ columns.T


def one_prompt(phrases: Tensor, masked: Tensor, embeds: Tensor, alpha: float = 0.01) -> tuple[Tensor, Tensor]:
    """(safe embeddings [tokens, width], β) from phrases [m, width], masked [n, width] and the prompt's own."""
    away = torch.eye(embeds.shape[-1]) - projector(phrases)
    distance = [torch.linalg.vector_norm(away @ vector) for vector in masked]
    full = (away @ projector(masked) @ embeds.T).T
    safe = embeds.clone()
    for i, mine in enumerate(distance):
        others = [d for j, d in enumerate(distance) if j != i]
        if mine >= (1 + alpha) * torch.stack(others).mean():
            safe[1 + i] = full[1 + i]
    attended = torch.arange(len(embeds)) < len(masked) + 2
    return safe, beta(embeds, full, attended)


def ours(phrases: Tensor, masked: Tensor, embeds: Tensor, alpha: float = 0.01) -> tuple[Tensor, Tensor]:
    """The same of all prompts at once: masked [prompts, n, width], embeds [prompts, tokens, width]."""
    concept, inputs = basis(phrases), basis(masked)
    everything = torch.ones(masked.shape[:2], dtype=torch.bool)
    full = projected(embeds, inputs, concept, official=True)
    found = torch.nn.functional.pad(
        triggers(distances(masked, concept), everything, alpha), (1, embeds.shape[1] - masked.shape[1] - 1)
    )
    attended = torch.arange(embeds.shape[1]) < masked.shape[1] + 2
    return torch.where(found.unsqueeze(-1), full, embeds), beta(embeds, full, attended)


def side_by_side(
    prompts: int = 32, phrases: int = 17, tokens: int = 12, width: int = 768
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """(ours, theirs) on the same random tensors, ready to run: safe embeddings [prompts, 77, width].

    Random encodings are far from degenerate, so that the pseudo-inverses lose no digits and both must agree.
    """
    random = torch.Generator().manual_seed(0)
    concept = torch.randn(phrases, width, generator=random)
    masked = torch.randn(prompts, tokens, width, generator=random)
    embeds = torch.randn(prompts, 77, width, generator=random)

    def theirs() -> Tensor:
        return torch.stack([one_prompt(concept, m, e)[0] for m, e in zip(masked, embeds)])

    return lambda: ours(concept, masked, embeds)[0], theirs
