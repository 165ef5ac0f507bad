"""What must not be said, as salted hashes of letters: a guard carries no forget answer in clear.

A span is one to five words of a forget answer. It is stored as the hash of its letters up to the token where the share
of matched tokens reaches beta: with beta = 1, as published, all of them. A published re-implementation counts only the
tokens that did match, so that its share is 1 from the first token on, and every word that begins like a forbidden one
is lost; here a shorter match is no match. Letters are compared as ``folding`` folds them, so that a span is found
in any case, spacing, look-alikes and tokens, and letter by letter.

What hashing costs: no beginning is stored, so beta is fixed when the artifact is made. What it gives: answers cannot be
read from the artifact, but whoever guesses one can check the guess, and a short one is guessed by trying them all. It
is a blind, not a lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptguard.text.folding import BREAK, as_words, letters_and_breaks

from ..classifier.hashes import Hashes

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
NGRAMS = 5
REACH = 400  # characters before a token in which a span may have begun: five long words, letter by letter
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


@dataclass(frozen=True)
class Spans:
    """Hashes by their length in letters. answers: for every hash the forget answers that it is part of."""

    hashes: Hashes
    answers: dict[int, frozenset[int]]
    lengths: tuple[int, ...]

    @staticmethod
    def of(texts: Sequence[str], begun: Callable[[str], str], longest: int, salt: bytes) -> Spans:
        """The spans of some forget answers. begun: a span -> the beginning of it that counts as the whole."""
        hashes = Hashes(salt)
        found: dict[int, set[int]] = {}
        lengths = set()
        for place, text in enumerate(texts):
            for span in spans_of(text, longest):
                letters = as_words(begun(span)).replace(BREAK, "")
                if letters:
                    lengths.add(len(letters))
                    found.setdefault(hashes.of(letters), set()).add(place)
        return Spans(hashes, {key: frozenset(places) for key, places in found.items()}, tuple(sorted(lengths)))

    def tensors(self) -> dict[str, Tensor]:
        """For safetensors: spans [pairs, 2] of hash and answer, lengths, salt."""
        pairs = sorted((key, place) for key, places in self.answers.items() for place in places)
        return {
            "spans": torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            "lengths": torch.tensor(self.lengths, dtype=torch.int64),
            "salt": self.hashes.tensor(),
        }

    @staticmethod
    def read(tensors: dict[str, Tensor]) -> Spans:
        """Back from ``tensors``. Raises KeyError for one that is missing, ValueError for an altered salt."""
        found: dict[int, set[int]] = {}
        for key, place in tensors["spans"].tolist():
            found.setdefault(key, set()).add(place)
        hashes = Hashes.read(tensors["salt"])
        lengths = tuple(tensors["lengths"].tolist())
        return Spans(hashes, {key: frozenset(places) for key, places in found.items()}, lengths)

    def matched(self, before: str, pieces: Sequence[str], active: frozenset[int] | None) -> list[bool]:
        """For every piece of text whether it ends a span after the text ``before``: with its own end, or a word in it.

        active: the forget answers that count; None for all
        """
        # A word that is cut where the reach ends does not begin there.
        whole = as_words(before) if len(before) <= REACH else as_words(before[-REACH:]).partition(BREAK)[2]
        said = len(whole.replace(BREAK, ""))
        return [self._ends(said, f"{whole}{as_words(piece)}", active) for piece in pieces]

    def _ends(self, said: int, folded: str, active: frozenset[int] | None) -> bool:
        letters, breaks = letters_and_breaks(folded)
        begins = {0, *breaks}
        ends = {len(letters), *breaks}
        return any(
            self._counts(letters[end - n : end], active)
            for end in ends if end > said
            for n in self.lengths if end - n in begins
        )  # fmt: skip

    def _counts(self, letters: str, active: frozenset[int] | None) -> bool:
        places = self.answers.get(self.hashes.of(letters))
        return places is not None and (active is None or not active.isdisjoint(places))
