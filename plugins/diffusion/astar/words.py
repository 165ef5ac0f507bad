"""Where a prompt speaks of which concept: the token positions that A-STAR looks at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from conceptguard.host import Host

# Words that name nothing that could be seen.
_FUNCTION = (
    " a an the this that these those his her its their my your our one some of in on at with without and or nor but to "
    "from by for into onto over under near next beside behind above below between through as is are be was were has "
    "have had it he she they we you i who which not no very "
)


class Span(NamedTuple):
    """A concept in a prompt: its words, and its positions among the tokens that the denoiser is given."""

    words: str
    positions: tuple[int, ...]


def words_of(text: str) -> list[str]:
    """What a text names, in order, without articles, prepositions and the like."""
    return [word for word in re.findall(r"\w+", text) if not _is_function(word)]


def spans_of(host: Host, text: str) -> list[Span]:
    """Each of the prompt's own ``words_of`` where it stands, as far as the encoder reads."""
    ids, found, start = host.tokens([text])[0], [], 0
    words = words_of(text)
    for word, own in zip(words, host.tokens(words)):
        at = next(iter(_places(ids, own, start)), None)
        if at is not None:
            start = at + len(own)
            found.append(Span(word, _positions(range(at, start))))
    return found


def find(host: Host, text: str, phrase: str) -> Span | None:
    """A phrase in a prompt, wherever it stands there, articles around it aside; None where it does not stand there."""
    words = re.findall(r"\w+", phrase)
    while words and _is_function(words[0]):
        words = words[1:]
    ids, own = host.tokens([text, " ".join(words) or phrase])
    places = _places(ids, own)
    return Span(phrase, _positions(p + i for p in places for i in range(len(own)))) if places else None


def nearest(host: Host, text: str, phrases: Sequence[str]) -> Span | None:
    """The word of a prompt that the encoder finds most like a concept; None for a prompt without words.

    Compared as gates compare: whitened encodings, each phrase by the token that says most about it.
    """
    spans = spans_of(host, text)
    if not spans:
        return None
    known = host.encoding_cache()
    ordinary = known.ordinary_of(host.read)
    parts, ids = known.read(list(phrases), host.read)
    telling = [part[max(range(len(part)), key=ordinary.weights(own).__getitem__)] for part, own in zip(parts, ids)]
    concept = normalize(ordinary.whiten(torch.stack(telling)), dim=-1)
    own = normalize(ordinary.whiten(host.read([text]).embeds[0]), dim=-1)
    like = (own @ concept.T).amax(1)
    return max(spans, key=lambda span: float(like[list(span.positions)].max()))


def _is_function(word: str) -> bool:
    return f" {word.lower()} " in _FUNCTION


def _places(ids: Sequence[int], own: Sequence[int], start: int = 0) -> list[int]:
    """Where a text's tokens stand among others."""
    return [i for i in range(start, len(ids) - len(own) + 1) if own and list(ids[i : i + len(own)]) == list(own)]


def _positions(places: Iterable[int]) -> tuple[int, ...]:
    return tuple(place + 1 for place in places)  # a begin token stands before them
