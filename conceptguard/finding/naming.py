"""Names for what was found: of given words those nearest to it, in the encoder's own space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STANDS_OUT = 2.0  # standard deviations over all words, or a concept is called by its number


class Names:
    """words: what concepts may be called; texts: what the encoder says of them, [words, width]; centre: of all crops.

    Pictures and texts lie in two cones of one space, and what both have in common names nothing: means are taken away
    on both sides.
    """

    def __init__(self, words: Sequence[str], texts: Tensor, centre: Tensor):
        self.words, self.centre = list(words), centre
        self.texts = F.normalize(texts - texts.mean(0), dim=1) if len(words) > 2 else texts

    def of(self, row: Tensor, most: int = 5) -> list[tuple[str, float]]:
        """The words nearest to a direction [width], each with its cosine; none where no word stands out."""
        if len(self.words) < 3:
            return []
        found = self.texts @ F.normalize(row - self.centre, dim=0)
        best = found.topk(min(most, len(found)))
        if float((best.values[0] - found.mean()) / found.std().clamp(min=1e-9)) < STANDS_OUT:
            return []
        return [(self.words[i], round(value, 3)) for i, value in zip(best.indices.tolist(), best.values.tolist())]


def distinct(named: Sequence[Sequence[tuple[str, float]]]) -> list[str]:
    """A name for each: the best word; a number after it where several have the same; a number alone without words."""
    times: dict[str, int] = {}
    names = []
    for i, words in enumerate(named):
        name = words[0][0] if words else f"concept {i + 1}"
        times[name] = times.get(name, 0) + 1
        names.append(name if times[name] == 1 else f"{name} {times[name]}")
    return names


def nearest_crops(values: Tensor, rows: Tensor, most: int = 12) -> Tensor:
    """The mean row of those crops [crops, width] in which something is most, by its values [crops]."""
    best = values.topk(min(most, len(values)))
    weights = best.values.clamp(min=0)
    return torch.einsum("n,nd->d", weights / weights.sum().clamp(min=1e-9), rows[best.indices])
