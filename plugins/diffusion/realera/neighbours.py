"""Words that a text encoder has close to a concept, and words that it has far from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from conceptguard.text.words import stands_in

if TYPE_CHECKING:
    from conceptguard.protocols import TextEncoder

CANDIDATES = 400  # are read by the encoder; those of its words whose input vectors are nearest


class Neighbours(NamedTuple):
    """near: nearest first; far: in no order."""

    near: list[str]
    far: list[str]


def neighbours(
    encoder: TextEncoder, concept: Sequence[str], kept: Sequence[str], count: int, alike: float, random: torch.Generator
) -> Neighbours:
    """At most ``count`` words of the encoder's lexicon on either side of a concept.

    A word's distance is that of what the encoder says of it, the mean of many words taken off, since all texts have
    much in common: near are cosines of ``alike`` or more to any of the concept's prompts, far are those below a half of
    it. Neither names the concept, and no near one stands in what is kept.
    """
    lexicon = {word: i for word, i in encoder.lexicon().items() if not any(stands_in(p, word) for p in concept)}
    words, ids = list(lexicon), torch.tensor(list(lexicon.values()), dtype=torch.long)
    if not words:
        return Neighbours([], [])
    table = normalize(encoder.vocabulary.float().cpu(), dim=-1)
    own = torch.stack([table[torch.tensor(row)].mean(0) for row in encoder.ids(concept)])
    close = (normalize(own, dim=-1) @ table[ids].T).amax(0)
    some = torch.randperm(len(words), generator=random)[:CANDIDATES].tolist()
    read = list(dict.fromkeys([*close.topk(min(CANDIDATES, len(words))).indices.tolist(), *some]))
    spaces = encoder.vectors([*encoder.ids(concept), *([int(ids[i])] for i in read)])
    cosine = torch.stack([_cosines(space.float().cpu(), len(concept)) for space in spaces]).mean(0)
    order = cosine.argsort(descending=True).tolist()
    near = [words[read[i]] for i in order if cosine[i] >= alike]
    free = [word for word in near if not any(stands_in(word, text) for text in kept)]
    far = [words[i] for i in some if cosine[read.index(i)] < alike / 2]
    return Neighbours(free[:count], far[:count])


def _cosines(vectors: Tensor, own: int) -> Tensor:
    """The largest of each vector behind the first ``own`` to any of these."""
    told = normalize(vectors - vectors[own:].mean(0), dim=-1)
    return (told[own:] @ told[:own].T).amax(1)
