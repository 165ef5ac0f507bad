"""GUARD's prompt classifier: which words of a prompt, and which pairs of words, tell that it is after something
forgotten.

Logistic regression on words and on pairs of neighbouring words, of which the most telling stretch of a prompt counts.
Words only add: whatever is said around a prompt, it is read as forget at least as surely as by itself. A name that
others share tells little, since prompts to retain have it too; the pair has to. What was learned is then found however
it is written: in any case, in look-alikes, run together or letter by letter with anything between the letters, the
other way round, with a word between, and with a slip in each word.

As published, GUARD reads the model's hidden states (``guard_states``). Those of a small model tell the form of a
question better than whom it is about, and nothing of a name that the model itself does not recognise.

Words are kept as salted hashes, beside them what is left of those that tell without one letter. Whoever guesses a word
can check the guess: it is a blind, not a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from conceptguard.text.folding import BREAK, as_words

from .hashes import Hashes

STRETCH = 12  # words that are weighed together
APART = 2  # how far the words of a pair may be from each other
SPELLED = 3  # from how many single letters a run is one word
BLURRED = 4  # letters from which a word may have a slip: one missing, too much, another, or in its neighbour's place
JOINED = 6  # letters from which a pair is looked for inside of other letters
_SETS = ("weights", "joined")


def words_in(text: str) -> list[str]:
    """Folded words; single letters in a row are one word."""
    found: list[str] = []
    run: list[str] = []
    for word in [*as_words(text).split(BREAK), ""]:
        if len(word) == 1:
            run.append(word)
        elif word or run:
            found += ["".join(run)] if len(run) >= SPELLED else run
            found += [word] if word else []
            run = []
    return found


def blurs(word: str) -> set[str]:
    """A word, and what is left of it without one of its letters: words a slip apart have one of these in common."""
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))} if len(word) >= BLURRED else {word}


@dataclass(frozen=True)
class Wording:
    """What was learned, by hashes.

    weights: of words and of pairs, none below 0; blurred: what is left of a word -> the words that tell and leave that;
    joined: letters of a pair that tells -> what it amounts to; lengths: of those letters; bias: above 0 is "forget"
    """

    hashes: Hashes
    weights: Mapping[int, float]
    blurred: Mapping[int, tuple[int, ...]]
    joined: Mapping[int, float]
    lengths: tuple[int, ...]
    bias: float

    def logit(self, text: str) -> float:
        """How surely a prompt is after something forgotten: above 0 is "forget"."""
        return max(self._by_words(text), self._by_letters(text)) + self.bias

    def names(self, text: str) -> float:
        """The same by words alone, for what a model says of itself: it hides no letters, and those of other words may
        happen to meet."""
        return self._by_words(text) + self.bias

    def _by_words(self, text: str) -> float:
        """The most telling stretch of words."""
        meant = [self._meant(word) for word in words_in(text)]
        values = [0.0]
        for i, words in enumerate(meant):
            near = {self.hashes.pair(a, b) for after in meant[i + 1 : i + 1 + APART] for a in words for b in after}
            values.append(self._best(words) + self._best(near))
        sums = list(accumulate(values))
        return max(sums[min(i + STRETCH, len(meant))] - sums[i] for i in range(len(sums)))

    def _meant(self, word: str) -> list[int]:
        """The word, or those that it may be a misspelling of."""
        own = self.hashes.of(word)
        if own in self.weights or len(word) < BLURRED - 1:  # a letter less than a word that may have a slip
            return [own]
        found = {near for left in blurs(word) for near in self.blurred.get(self.hashes.of(left), ())}
        return sorted(found) or [own]

    def _best(self, features: Iterable[int]) -> float:
        return max((self.weights.get(feature, 0.0) for feature in features), default=0.0)

    def _by_letters(self, text: str) -> float:
        """The most telling pair whose letters follow each other, whatever stands between them."""
        letters = as_words(text).replace(BREAK, "")
        found = (
            self.joined.get(self.hashes.of(letters[i : i + n]), 0.0)
            for n in self.lengths for i in range(len(letters) - n + 1)
        )  # fmt: skip
        return max(found, default=0.0)

    def tensors(self) -> dict[str, Tensor]:
        """For safetensors: hashes int64 [n] and values float32 [n] of each set; blurred int64 [pairs, 2]."""
        found = {
            "blurred": _integers((left, word) for left, words in sorted(self.blurred.items()) for word in words),
            "lengths": _integers(self.lengths),
            "bias": torch.tensor([self.bias]),
            "salt": self.hashes.tensor(),
        }
        for name in _SETS:
            pairs = sorted(getattr(self, name).items())
            found[name] = _integers(key for key, _ in pairs)
            found[f"{name}.values"] = torch.tensor([value for _, value in pairs])
        return found

    @staticmethod
    def read(tensors: Mapping[str, Tensor]) -> Wording:
        """Back from ``tensors``. Raises KeyError for one that is missing, ValueError for one that was altered."""
        blurred: dict[int, list[int]] = {}
        for left, word in tensors["blurred"].reshape(-1, 2).tolist():
            blurred.setdefault(left, []).append(word)
        weights, joined = (
            dict(zip(tensors[name].tolist(), tensors[f"{name}.values"].tolist(), strict=True)) for name in _SETS
        )
        return Wording(
            Hashes.read(tensors["salt"]), weights, {k: tuple(v) for k, v in blurred.items()}, joined,
            tuple(tensors["lengths"].tolist()), float(tensors["bias"]),
        )  # fmt: skip


def _integers(values: Iterable[object]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
