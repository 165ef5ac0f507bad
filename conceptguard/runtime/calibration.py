"""Where a gate starts to open, measured: just above everything that must leave it shut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .encodings import Encode, EncodingCache, ordinary_captions, unnamed
from .gates import Gate, GateBank


@dataclass(frozen=True)
class Calibration:
    """A measured gate.

    floor, full: similarities where it starts to open and is fully open
    unread: similarity where it is fully open for embeddings that came without their text
    false_open: share of texts to keep that open it at all; missed_open: share of the concept's own that leave it shut
    kept, own: how many texts were measured
    """

    floor: float
    full: float
    unread: float
    false_open: float = 0.0
    missed_open: float = 0.0
    kept: int = 0
    own: int = 0

    def as_dict(self) -> dict[str, float]:
        """For a manifest."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


# Between what must stay shut and the floor; less where there is less room below 1, which a text that names it reaches.
MARGIN, HIGHEST = 0.02, 0.995
WORDS = 12  # that stand in turn for the telling word of a phrase


def calibrate(
    prompts: Sequence[str],
    encode: Encode,
    *,
    keep: Sequence[str] = (),
    own: Sequence[str] = (),
    captions: Sequence[str] | None = None,
    known: EncodingCache | None = None,
) -> Calibration:
    """A gate just above everything that must not open it, and fully open for the concept's own texts.

    keep: texts that must leave it shut, beside ordinary ``captions``; own: texts of the concept, by default its
    prompts. A caption whose words contain a whole concept prompt is about the concept and does not count.
    known: what the encoder has read before, and which gates were measured by it
    """
    known = known or EncodingCache()
    asked = tuple(prompts), tuple(keep), tuple(own), None if captions is None else tuple(captions)
    if asked not in known.measured:
        known.measured[asked] = _calibrate(*asked, encode, known)
    return known.measured[asked]  # type: ignore[no-any-return]


def _calibrate(
    prompts: Sequence[str], keep: Sequence[str], own: Sequence[str], captions: Sequence[str] | None, encode: Encode,
    known: EncodingCache,
) -> Calibration:  # fmt: skip
    return settled([sight(prompts, encode, keep=keep, own=own, captions=captions, known=known)])


def around(prompts: Sequence[str]) -> list[str]:
    """The phrases of a concept with an ordinary word where their telling one stands: of "someone smoking", "someone
    carpet". To an encoder that knows few words, what surrounds the telling one may look like the concept by itself.

    The telling word is the one that ordinary captions have least, each in turn where several are. What still names the
    concept, by a prompt or by the one telling word of a prompt, is left out.
    """
    having = Counter(word for caption in ordinary_captions() for word in set(re.findall(r"\w+", caption.lower())))
    once = sorted(word for word, count in having.items() if count == 1)
    others, names, found = once[:: len(once) // WORDS][:WORDS], list(prompts), []
    for words in map(str.split, prompts):
        rarity = [having[word.lower()] for word in words]
        telling = [i for i, count in enumerate(rarity) if count == min(rarity)]
        names += [words[telling[0]]] if len(telling) == 1 else []
        if len(words) > 1:
            found += [" ".join([*words[:i], other, *words[i + 1 :]]) for i in telling for other in others]
    return unnamed(dict.fromkeys(found), names)


class Sight(NamedTuple):
    """What the prompts of one concept see.

    kept: similarity of every text that must leave the gate shut, captions first; named: which of these captions are
    about the concept, and do not count, bool
    beside: the same of the phrases with their telling word replaced, see ``around``
    own, unread: the same of the concept's own texts, with their words and without
    """

    kept: Tensor
    named: Tensor
    beside: Tensor
    own: Tensor
    unread: Tensor


def sight(
    prompts: Sequence[str],
    encode: Encode,
    *,
    keep: Sequence[str] = (),
    own: Sequence[str] = (),
    captions: Sequence[str] | None = None,
    known: EncodingCache | None = None,
) -> Sight:
    """Arguments as for ``calibrate``. Several concepts share one gate by what each of them sees, see ``settled``."""
    known = known or EncodingCache()
    ordinary = list(captions or ordinary_captions())
    bank = GateBank([Gate(prompts=tuple(prompts))], encode, known)
    kept = bank.similarity_of_content(*known.read([*ordinary, *keep], encode)).amax(1)
    swapped = around(prompts)
    beside = bank.similarity_of_content(*known.read(swapped, encode)).amax(1) if swapped else kept[:0]
    mine = bank.similarity_of_content(*known.read(own or prompts, encode)).amax(1)
    left = set(unnamed(ordinary, prompts))
    named = torch.tensor([caption not in left for caption in ordinary])
    return Sight(kept, named, beside, mine, _unread(bank, encode, own or prompts))


def settled(sights: Sequence[Sight]) -> Calibration:
    """The gate that the prompts of all of them open: shut for what none of them is to see, open for each one's own."""
    kept = torch.stack([one.kept for one in sights]).amax(0)
    named = torch.stack([one.named for one in sights]).any(0)
    counts = torch.cat([~named, named.new_ones(len(kept) - len(named))])
    kept = torch.cat([kept[counts], *(one.beside for one in sights)])
    mine = torch.cat([one.own for one in sights])
    unread = float(torch.cat([one.unread for one in sights]).min())
    floor, full = between(float(kept.max()), unread)
    weakest = round(unread - MARGIN, 4)
    return Calibration(floor, full, weakest, _share(kept > floor), _share(mine <= floor), len(kept), len(mine))


def between(shut: float, own: float) -> tuple[float, float]:
    """Floor and full of a gate. shut: the most that must not open it; own: the weakest sight of the concept.

    Fully open half-way to what embeddings without their text show of the concept, so that words that nobody listed
    open it too.
    """
    highest = min(shut, HIGHEST)
    room = min(1 - highest, 4 * MARGIN) / 4
    floor = round(highest + room, 4)
    return floor, round(min(max((own + floor) / 2, floor + room), 1 - room), 4)


def _unread(bank: GateBank, encode: Encode, texts: Sequence[str]) -> Tensor:
    """The similarity of each text to the nearest prompt of the bank where only its embeddings are known, [texts]."""
    parts = [encode(list(texts[i : i + 64])).embeds for i in range(0, len(texts), 64)]
    return torch.cat([bank.similarity(part, [None] * len(part)).amax(1) for part in parts])


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
