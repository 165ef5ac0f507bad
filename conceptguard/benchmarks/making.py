"""What solving an edit costs, against the published arithmetic on the same tensors, at the size of SD 1.5.

The peers are written out from the papers, as the authors' code runs them: layer by layer, concept by concept, with one
inverse for every layer. What they solve is the same, so that the largest difference is shown beside the times.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..making.edits import Edit, Rows, brought_back, directions, edited, products, solve, solve_free, trimmed

Row = dict[str, Any]
WIDTH, KEPT, LAMB = 768, 10, 0.5
OUTPUTS = [320] * 10 + [640] * 10 + [1280] * 12  # keys and values of sixteen attention layers
MOST_PEER = 100  # concepts up to which the peer is timed: it takes minutes beyond
CUTOFF = 0.1  # share of the spectrum that must stay
RIDGE, AGAIN = 0.1, 0.1  # of RECE: its regulariser, and pull and weight of what stays in a round


def subject(concepts: int, device: str, seed: int = 0) -> tuple[dict[str, Tensor], Rows]:
    """Random weights of all layers, and one row to erase for each concept, with its guide; no model is loaded."""
    random = torch.Generator().manual_seed(seed)
    weights = {
        f"layer {i}": torch.randn(out, WIDTH, generator=random).to(device) / WIDTH**0.5 for i, out in enumerate(OUTPUTS)
    }
    erased, guide, kept = (torch.randn(n, WIDTH, generator=random).to(device) for n in (concepts, concepts, KEPT))
    return weights, Rows(erased, guide, kept)


def uce(weights: dict[str, Tensor], rows: Rows) -> tuple[Edit, dict[str, Tensor]]:
    """Ours: the edit, which is what an artifact holds, and ``up`` [out, r] by layer, which a guard adds."""
    edit = solve(rows, LAMB)
    return edit, edited(edit, weights)


def uce_official(weights: dict[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """UCE's loop (Gandikota et al., 2024): for every layer both matrices are summed, product by product."""
    found = {}
    for name, weight in weights.items():
        left = LAMB * weight
        right = LAMB * torch.eye(WIDTH, device=weight.device)
        for own, guide in [*zip(rows.erased, rows.guide), *zip(rows.preserved, rows.preserved)]:
            left = left + torch.outer(weight @ guide, own)
            right = right + torch.outer(own, own)
        found[name] = left @ torch.inverse(right)
    return found


def rece(weights: dict[str, Tensor], rows: Rows) -> tuple[Edit, dict[str, Tensor]]:
    """Ours, with one round as the authors' code has it."""
    edit = solve(rows, LAMB)
    gram = sum(products(weight, weight) for weight in weights.values())
    derived = rows._replace(erased=brought_back(edit, gram, rows.erased, RIDGE))  # type: ignore[arg-type]
    edit = trimmed(edit.then(solve(derived, AGAIN, 1.0, AGAIN)))
    return edit, edited(edit, weights)


def rece_official(weights: dict[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """RECE's loop (Gong et al., 2024) around UCE's: for every concept the sums over all layers are made anew."""
    first = uce_official(weights, rows)
    derived = []
    for own in rows.erased:
        left = RIDGE * torch.eye(WIDTH, device=own.device)
        right = torch.zeros_like(left)
        for name, old in weights.items():
            left = left + first[name].T @ first[name]
            right = right + first[name].T @ old
        derived.append(torch.inverse(left) @ (right @ own))
    return _again(first, rows._replace(erased=torch.stack(derived)))


def _again(weights: dict[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    found = {}
    for name, weight in weights.items():
        left, right = AGAIN * weight, AGAIN * torch.eye(WIDTH, device=weight.device)
        for scale, own, guide in [*((1.0, *pair) for pair in zip(rows.erased, rows.guide)),
                                  *((AGAIN, kept, kept) for kept in rows.preserved)]:  # fmt: skip
            left = left + scale * torch.outer(weight @ guide, own)
            right = right + scale * torch.outer(own, own)
        found[name] = left @ torch.inverse(right)
    return found


def nullspace(weights: dict[str, Tensor], rows: Rows) -> tuple[Edit, dict[str, Tensor]]:
    """Ours, in what the rows to keep leave free."""
    _, free = directions(rows.preserved, CUTOFF)
    edit = solve_free(rows._replace(preserved=rows.preserved[:0]), free, 1.0, 1.0)
    return edit, edited(edit, weights)


def nullspace_official(weights: dict[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """SPEED's projection (Li et al., 2026), W + W (G - C)ᵀ C P (CᵀC P + I)⁻¹. What to keep is filtered by layer there,
    so that every layer has a projector and an inverse of its own."""
    found = {}
    for name, weight in weights.items():
        values, vectors = torch.linalg.eigh(rows.preserved.T @ rows.preserved)
        free = vectors[:, values < CUTOFF * values.max()]
        projector = free @ free.T
        inner = rows.erased.T @ rows.erased @ projector + torch.eye(WIDTH, device=weight.device)
        shift = (rows.guide - rows.erased).T @ rows.erased @ projector
        found[name] = weight + weight @ shift @ torch.inverse(inner)
    return found


METHODS: dict[str, tuple[Any, Any, str]] = {
    "uce": (uce, uce_official, "UCE's loop"),
    "rece": (rece, rece_official, "RECE's loop"),
    "nullspace": (nullspace, nullspace_official, "SPEED's projection"),
}


def measure(method: str, concepts: int, device: str, repeats: int, clock: Callable[[], float]) -> Row:
    """One row. ratio_peer: our time over the published arithmetic's, both in turn; smaller: how many times the file is
    smaller than the edited weights that the authors ship; difference: of the edited weights, relative to the largest.
    """
    ours, theirs, peer = METHODS[method]
    weights, rows = subject(concepts, device)
    ours(weights, rows)
    times: list[list[float]] = [[], []]
    asked: Sequence[Any] = (ours, theirs) if concepts <= MOST_PEER else (ours,)
    answers: list[Any] = []
    for _ in range(repeats):
        answers = []
        for run, taken in zip(asked, times):
            _wait(device)
            begin = clock()
            answers.append(run(weights, rows))
            _wait(device)
            taken.append(clock() - begin)
    (down, shift), ups = answers[0]
    size = 4 * (down.numel() + shift.numel())
    whole = 4 * sum(weight.numel() for weight in weights.values())
    found: Row = {
        "method": method, "concepts": concepts, "ms": round(1000 * statistics.median(times[0]), 2), "bytes": size,
        "smaller": round(whole / size, 1),
    }  # fmt: skip
    if len(answers) > 1:
        changed = {name: weights[name].double() + ups[name].double() @ down.double() for name in weights}
        gap = max(float((changed[n] - answers[1][n].double()).abs().max()) for n in weights)
        found |= {
            "peer": peer, "ms_peer": round(1000 * statistics.median(times[1]), 2),
            "ratio_peer": round(statistics.median(a / b for a, b in zip(*times)), 5),
            "difference": gap / max(float(one.abs().max()) for one in answers[1].values()),
        }  # fmt: skip
    return found


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
