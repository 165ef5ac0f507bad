"""What forget answers mean: vectors of their words, and of the answers themselves to find the one a prompt is after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptguard.text import sentence_encoder

from .spans import STOP_WORDS, WORD, words_of


@dataclass(frozen=True)
class Meanings:
    """answers: [answers, 384]; words: [words, 384]; of: [pairs, 2], which word is part of which answer.

    A vector is not the text, but whoever guesses a text can check the guess against it.
    """

    answers: Tensor
    words: Tensor
    of: Tensor

    @staticmethod
    def of_texts(texts: Sequence[str]) -> Meanings:
        """Of some forget answers."""
        mine = [list(dict.fromkeys(w.lower() for w in words_of(text))) for text in texts]
        known = {word: i for i, word in enumerate(dict.fromkeys(w for words in mine for w in words))}
        pairs = [(known[word], place) for place, words in enumerate(mine) for word in words]
        of = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        return Meanings(sentence_encoder.encode(texts), sentence_encoder.encode(list(known)), of)

    def tensors(self) -> dict[str, Tensor]:
        """For safetensors."""
        return {"answers": self.answers.half(), "words": self.words.half(), "words_of": self.of}

    @staticmethod
    def read(tensors: dict[str, Tensor]) -> Meanings:
        """Back from ``tensors``. Raises KeyError for one that is missing."""
        return Meanings(tensors["answers"].float(), tensors["words"].float(), tensors["words_of"])

    def nearest(self, texts: Sequence[str], n: int) -> list[frozenset[int]]:
        """For every text the ``n`` answers that are nearest to it."""
        found = sentence_encoder.encode(texts) @ self.answers.T
        return [frozenset(row) for row in found.topk(min(n, len(self.answers)), 1).indices.tolist()]

    def forbidden(self, active: frozenset[int] | None) -> Tensor:
        """The vectors of the words of some answers, [words, 384]; None for all."""
        if active is None:
            return self.words
        mine = torch.isin(self.of[:, 1], torch.tensor(sorted(active)))
        return self.words[self.of[mine, 0].unique()]


def last_words(before: str, pieces: Sequence[str]) -> list[str | None]:
    """The word that each candidate ends in, after the text ``before``; None where that carries no meaning."""
    begun = before[-200:]
    found: list[str | None] = []
    for piece in pieces:
        words = WORD.findall(begun + piece) if any(letter.isalnum() for letter in piece) else []
        found.append(words[-1].lower() if words and words[-1].lower() not in STOP_WORDS else None)
    return found


def similarity(words: Sequence[str | None], forbidden: Tensor) -> Tensor:
    """The largest cosine of each word with a forbidden one, at least 0; 0 for None: [words]."""
    found = torch.zeros(len(words))
    told = [i for i, word in enumerate(words) if word is not None]
    if told and len(forbidden):
        vectors = sentence_encoder.encode_words([words[i] or "" for i in told])
        found[told] = (vectors @ forbidden.T).amax(1).clamp_min(0.0)
    return found
