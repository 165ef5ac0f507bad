"""What SAFREE reads in a prompt: in each space of an encoder, the prompt's own span, and the tokens that trigger it.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation", ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptguard.protocols import TextEncoder

from .math import basis, distances, triggers

MASK = 0  # the token that hides another one: "!" in CLIP, as in the authors' code, padding in T5


@dataclass
class Part:
    """What one space knows of a prompt: the span of its masked encodings [n, width], and its trigger positions."""

    inputs: Tensor
    positions: Tensor


def concept_subspaces(encoder: TextEncoder, phrases: Sequence[str]) -> list[Tensor]:
    """The span of the phrases in each space of an encoder: [phrases, width]. Long ones are read in several windows."""
    size = encoder.window
    ids = [own[i : i + size] for own in encoder.ids(phrases, whole=True) for i in range(0, len(own), size)]
    return [basis(space) for space in encoder.vectors(ids)]


def read(
    encoder: TextEncoder, concepts: Sequence[Tensor], texts: Sequence[str], alpha: float, official: bool, padding: bool
) -> list[tuple[list[Part], list[str]]]:
    """For each text what every space of an encoder knows of it, and the trigger tokens in words. All in one call.

    concepts: a subspace for each space; padding: whether what follows a text with triggers counts as one, too
    """
    ids = encoder.ids(texts)
    width = [concept.shape[-1] for concept in concepts]
    nothing = [Part(torch.zeros(0, w), torch.zeros(encoder.window + 2, dtype=torch.bool)) for w in width]
    found: list[tuple[list[Part], list[str]]] = [(list(nothing), []) for _ in texts]
    asked = [t for t, own in enumerate(ids) if own]
    if not asked:
        return found
    # A word that stands twice hides itself if only one of the two is masked, so equal tokens go together.
    groups = [[[i] for i in range(len(ids[t]))] if official else _groups(ids[t]) for t in asked]
    masked = [
        [[MASK if i in group else token for i, token in enumerate(ids[t])] for group in own]
        for t, own in zip(asked, groups)
    ]
    counts = [len(own) for own in groups]
    spaces = encoder.vectors([v for own in masked for v in own] + [ids[t] for t in asked])
    real = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
    parts: list[list[Part]] = [[] for _ in asked]
    carriers: list[set[int]] = [set() for _ in asked]
    for space, concept in zip(spaces, concepts):
        each = torch.nn.utils.rnn.pad_sequence(list(space[: sum(counts)].split(counts)), batch_first=True)
        mask = real.to(each.device)
        whole = None if official else distances(space[sum(counts) :].unsqueeze(1), concept)[:, 0]
        hits = triggers(distances(each, concept), mask, alpha, whole).cpu()
        for n, (t, inputs, hit) in enumerate(zip(asked, basis(each), hits)):
            positions = torch.zeros(encoder.window + 2, dtype=torch.bool)
            for g in hit.nonzero()[:, 0].tolist():
                positions[encoder.positions(groups[n][g])] = True
                carriers[n].add(ids[t][groups[n][g][0]])
            if padding and positions.any():
                positions[encoder.length(ids[t]) - 1 :] = True
            parts[n].append(Part(inputs, positions))
    for n, t in enumerate(asked):
        found[t] = parts[n], encoder.words([token for token in dict.fromkeys(ids[t]) if token in carriers[n]])
    return found


def _groups(ids: Sequence[int]) -> list[list[int]]:
    """Positions of each distinct token."""
    found: dict[int, list[int]] = {}
    for i, token in enumerate(ids):
        found.setdefault(token, []).append(i)
    return list(found.values())
