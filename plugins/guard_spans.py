"""What must not be said, as salted hashes of token sequences: a guard carries no forget answer in clear.

A span is one to five words of a forget answer. It is stored as the hash of its tokens up to the one where the share of
matched tokens reaches beta: with beta = 1, as published, of all of them. A published re-implementation counts only the
tokens that did match, so that its share is 1 from the first token on, and every word that begins like a forbidden one
is lost; here a shorter match is no match.

What hashing costs: no prefix is stored, so beta is fixed when the artifact is made. What it gives: answers cannot be
read from the artifact, but whoever guesses one can check the guess, and an answer of one or two tokens is guessed by
trying them all. It is a blind, not a lock.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
NGRAMS = 5
SEPARATORS = (" ", "-", ", ", ".")  # between the letters of a word that is spelled out
STOP_WORDS = frozenset(
    WORD.findall(
        "a an the and or but nor so yet if then than as at by for from in into of off on onto out over to up with "
        "without within about after before between during through under until while is am are was were be been being "
        "has have had having do does did done will would shall should can could may might must not no yes it its "
        "itself he him his himself she her hers herself they them their theirs we us our ours you your yours i me my "
        "mine this that these those there here who whom whose which what when where why how all any both each few "
        "more most other some such only own same too very just also s t"
    )
)


def words_of(text: str) -> list[str]:
    """The words that carry meaning, each once."""
    return list(dict.fromkeys(w for w in WORD.findall(text) if _means(w)))


def _means(word: str) -> bool:
    return len(word) > 1 and word.lower() not in STOP_WORDS


def spans_of(text: str, longest: int = NGRAMS) -> list[str]:
    """Every run of one to five words, unless all of them are stop words or single letters."""
    words = WORD.findall(text)
    runs = [words[i : i + n] for n in range(1, longest + 1) for i in range(len(words) - n + 1)]
    return list(dict.fromkeys(" ".join(run) for run in runs if any(map(_means, run))))


def variants_of(span: str) -> list[str]:
    """A span as it may be written: a single word also in other cases and letter by letter; with and without a space
    before it."""
    forms = [span]
    if " " not in span:
        cases = list(dict.fromkeys([span, span.lower(), span.upper(), span.capitalize()]))
        forms = [*cases, *(mark.join(case) for case in cases for mark in SEPARATORS if len(span) > 2)]
    return [space + form for form in forms for space in ("", " ")]


@dataclass(frozen=True)
class Spans:
    """Hashes by their length in tokens. answers: for every hash the forget answers that it is part of."""

    salt: bytes
    answers: dict[int, frozenset[int]]
    lengths: tuple[int, ...]

    @staticmethod
    def of(texts: Sequence[str], encode: Callable[[str], list[int]], beta: float, longest: int, salt: bytes) -> Spans:
        """The spans of some forget answers. encode: text -> token ids without special ones; beta in (0, 1]."""
        places: dict[str, set[int]] = {}
        for place, text in enumerate(texts):
            for span in spans_of(text, longest):
                places.setdefault(span, set()).add(place)
        found: dict[int, set[int]] = {}
        lengths = set()
        for span, mine in places.items():
            for ids in filter(None, map(encode, variants_of(span))):
                ids = ids[: math.ceil(beta * len(ids) - 1e-9)]
                lengths.add(len(ids))
                found.setdefault(_hash(salt, ids), set()).update(mine)
        return Spans(salt, {key: frozenset(places) for key, places in found.items()}, tuple(sorted(lengths)))

    def tensors(self) -> dict[str, Tensor]:
        """For safetensors: spans [pairs, 2] of hash and answer, lengths, salt."""
        pairs = sorted((key, place) for key, places in self.answers.items() for place in places)
        return {
            "spans": torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            "lengths": torch.tensor(self.lengths, dtype=torch.int64),
            "salt": torch.frombuffer(bytearray(self.salt), dtype=torch.uint8).clone(),
        }

    @staticmethod
    def read(tensors: dict[str, Tensor]) -> Spans:
        """Back from ``tensors``. Raises KeyError for one that is missing."""
        found: dict[int, set[int]] = {}
        for key, place in tensors["spans"].tolist():
            found.setdefault(key, set()).add(place)
        salt = bytes(tensors["salt"].tolist())
        lengths = tuple(tensors["lengths"].tolist())
        return Spans(salt, {key: frozenset(places) for key, places in found.items()}, lengths)

    def matched(self, before: Sequence[int], candidates: Iterable[int], active: frozenset[int] | None) -> list[bool]:
        """For every candidate token whether it completes a span after the tokens ``before``.

        active: the forget answers that count; None for all
        """
        begun = [
            hashlib.blake2b(_bytes(before[len(before) - n + 1 :]), digest_size=8, key=self.salt)
            for n in self.lengths
            if n <= len(before) + 1
        ]
        return [any(self._counts(state, token, active) for state in begun) for token in candidates]

    def _counts(self, begun: hashlib.blake2b, token: int, active: frozenset[int] | None) -> bool:
        state = begun.copy()
        state.update(_bytes([token]))
        places = self.answers.get(int.from_bytes(state.digest(), "little", signed=True))
        return places is not None and (active is None or not active.isdisjoint(places))


def _bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype="<u4").tobytes()


def _hash(salt: bytes, ids: Sequence[int]) -> int:
    digest = hashlib.blake2b(_bytes(ids), digest_size=8, key=salt).digest()
    return int.from_bytes(digest, "little", signed=True)
