"""What a membrane's training reads: the concept's texts beside neutral ones, and texts to hold where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conceptguard.concept import Concept
from conceptguard.generation.conditioning import Encoded, pick
from conceptguard.making.templates import check_window, encode_all, fill, filled
from conceptguard.runtime.encodings import ordinary_captions

if TYPE_CHECKING:
    from conceptguard.host import Host

SEEN = 2  # times as many candidates for anchors are encoded as are drawn
RIDGE = 0.1  # of the mean eigenvalue of what texts to hold are made of


class Texts:
    """Everything a training encodes, once: pairs (concept, neutral) row by row, anchors, the empty prompt.

    Raises PolicyError for a text that does not fit the encoder's window.
    """

    def __init__(
        self, host: Host, concept: Concept, preserve: Sequence[str], settings: Any, random: torch.Generator
    ) -> None:
        pairs = [(fill(t, p), fill(t, concept.replacement)) for p in concept.prompts for t in settings.templates]
        self.own, neutral = (list(column) for column in zip(*dict(pairs).items()))
        self.kept = filled(settings.templates, preserve)
        check_window(host, [*self.own, *neutral, *self.kept])
        self.target, self.neutral = encode_all(host, self.own), encode_all(host, neutral)
        self.empty = host.encode([""])
        # Encoding every text to hold would take as long as some trainings do, and most would never be drawn.
        candidates = [*self.kept, *ordinary_captions(without=concept.prompts)]
        wanted = settings.steps * settings.anchors
        chosen = torch.randperm(len(candidates), generator=random)[: max(SEEN * wanted, 1)].tolist()
        self.anchors = encode_all(host, [candidates[i] for i in sorted(chosen)])
        # Distances in the text space are between ends of text, where a causal encoder has read everything.
        centre = F.normalize(_ends(self.target), dim=-1).mean(0, keepdim=True)
        self.distance = 1 - F.cosine_similarity(_ends(self.anchors), centre).abs()
        likely = self.distance.pow(settings.alpha_distance)
        self._drawn = [] if not wanted else torch.multinomial(likely, wanted, replacement=True, generator=random).view(
            settings.steps, -1
        ).tolist()  # fmt: skip

    def anchors_of(self, step: int) -> Encoded:
        """The texts that a step holds: likelier far ones."""
        return pick(self.anchors, self._drawn[step])

    def direction(self) -> Tensor:
        """Along which a linear reader tells the concept's texts from neutral ones, and hears least of texts to hold:
        (Σ k kᵀ / n + λI)⁻¹ (mean of c - mean of g), of unit length, [width]."""
        own, neutral, held = (
            one.embeds.detach().flatten(0, 1).double().cpu() for one in (self.target, self.neutral, self.anchors)
        )
        inner = held.T @ held / len(held)
        inner.diagonal().add_(RIDGE * inner.diagonal().mean())
        return F.normalize(torch.linalg.solve(inner, own.mean(0) - neutral.mean(0)), dim=0).float()


def _ends(encoded: Encoded) -> Tensor:
    """The encoding of each text's end token, [rows, width], on the CPU."""
    last = encoded.embeds.shape[1] - 1
    return torch.stack([e[min(len(ids) + 1, last)] for e, ids in zip(encoded.embeds, encoded.ids)]).float().cpu()
