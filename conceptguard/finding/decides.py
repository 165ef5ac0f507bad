"""What decides: the classes that pictures were sorted under, or where nobody sorted them what tells each from the rest.

Both are linear in what an encoder says of a picture, so that a concept's part in a decision is exact, and every
attribution method worth its name says the same of it (Fel et al., 2023, "A holistic approach to unifying automatic
concept extraction and concept importance estimation").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS, DECAY = 60, 1e-3
PARTS = 5  # that pictures are cut into, each decided by what the others taught


@dataclass(frozen=True)
class Decides:
    """What the decision about each picture is a product with. directions: [n, width]; centre: of the rows, [width]

    classes: their names, none where pictures are not sorted; weights: [classes, width], their directions
    """

    directions: Tensor
    centre: Tensor
    classes: Sequence[str] = ()
    weights: Tensor | None = None

    def logits(self, rows: Tensor) -> Tensor:
        """Of each class, [n, classes], of pictures [n, width]."""
        assert self.weights is not None
        return (rows - self.centre) @ self.weights.T


def decides(rows: Tensor, classes: Sequence[str]) -> Decides:
    """rows: what the encoder says of each picture, [n, width]; classes: of each, or all ""."""
    centre = rows.mean(0)
    moved = rows - centre
    if not any(classes):
        return Decides(F.normalize(moved, dim=1), centre)
    names = sorted(set(classes))
    wanted = torch.tensor([names.index(one) for one in classes])
    weights = fit(moved, wanted, len(names))
    return Decides(weights[wanted], centre, names, weights)


def fit(rows: Tensor, wanted: Tensor, classes: int, decay: float = DECAY) -> Tensor:
    """Logistic regression without a bias, [classes, width], each relative to the mean of all.

    Every class counts the same, however many pictures it has; decay: of squared weights.
    """
    weights = torch.zeros(classes, rows.shape[1], requires_grad=True)
    share = 1 / torch.bincount(wanted, minlength=classes).clamp(min=1).float()
    optimiser = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = F.cross_entropy(rows @ weights.T, wanted, weight=share) + decay * weights.square().sum()
        torch.autograd.backward(found)
        return found

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach() - weights.detach().mean(0)


def rightly(rows: Tensor, classes: Sequence[str]) -> Tensor:
    """Whether each picture is told its class by a decision that was learnt from others, [n]. rows: [n, width]; classes:
    of each"""
    right = torch.zeros(len(rows), dtype=torch.bool)
    by_class = sorted(range(len(rows)), key=lambda i: classes[i])
    for apart in range(PARTS):
        mine = by_class[apart::PARTS]  # of every class its share
        others = sorted(set(by_class) - set(mine))
        learnt = decides(rows[others], [classes[i] for i in others])
        best = learnt.logits(rows[mine]).argmax(1).tolist()
        right[mine] = torch.tensor([learnt.classes[k] == classes[i] for k, i in zip(best, mine)], dtype=torch.bool)
    return right
