"""Captions for training: what somebody might type who wants a scene, in as many shapes as there is patience for.

A caption is a frame from the suite's ``training`` lists with the scene's words in it, and around it what people say
besides: openers, tails, and words out of a wide vocabulary that mean nothing here. So the model learns to find what it
knows in what it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scenes import Scene, Thing
from .suite import Suite, with_article

EMPTY = 0.08  # share of empty captions, which classifier-free guidance needs
STYLED = 0.75  # share of the others that name the style
NAMED = 0.65  # share that use the object's own name where it has synonyms or phrases
OPENED, ENDED = 0.25, 0.25  # shares with a known opener, with a known tail
STRANGE = 0.45  # share with words that mean nothing
MISSPELT = 0.10  # share with a slip of the pen


@dataclass(frozen=True)
class Caption:
    """A text, and what of its scene it tells: whether it names the style, and whether it says which thing is left."""

    text: str
    styled: bool = False
    placed: bool = False


class Captions:
    """Writes captions for a suite. strange: words that mean nothing to the model, for example a dictionary's."""

    def __init__(self, suite: Suite, strange: Sequence[str]):
        known = {w.strip(".,:;!?()").lower() for text in _all_words(suite) for w in text.split()}
        self.suite = suite
        self.strange = [word for word in strange if word.lower() not in known]

    def write(self, scene: Scene, rng: np.random.Generator) -> Caption:
        """One caption; an empty one now and then.

        Grounds, colours, sizes and turns are always named, so that what is usual needs no word.
        """
        if rng.random() < EMPTY:
            return Caption("")
        framed = self._framed(scene, rng)
        text = framed.text
        if scene.tint:
            ground = _one(self.suite.training["grounds"], rng).format(tint=scene.tint)
            text = f"{text}, {ground}" if rng.random() < 0.8 else f"{ground}, {text}"
        if rng.random() < OPENED:
            text = f"{_one(self.suite.training['openers'], rng)} {text}"
        if rng.random() < ENDED:
            text = f"{text} {_one(self.suite.training['tails'], rng)}"
        if rng.random() < STRANGE:
            text = self._among_strangers(text, rng)
        if rng.random() < MISSPELT:
            text = misspelt(text, rng)
        return Caption(text, framed.styled, framed.placed)

    def _framed(self, scene: Scene, rng: np.random.Generator) -> Caption:
        frames = self.suite.training
        style = self._style(scene.style, rng) if rng.random() < STYLED else None
        if len(scene.things) == 1:
            thing, noun = self.words(scene.things[0], rng)
            frame = _one(frames["styled" if style else "plain"], rng)
            return Caption(frame.format(thing=thing, noun=noun, style=style), style is not None)
        left, right = (self.words(thing, rng)[0] for thing in scene.things)
        placed = bool(rng.random() < 0.5)
        if placed:
            text = _one(frames["placed"], rng).format(left=left, right=right)
        else:
            # Nobody says where: either may be named first.
            one, other = (left, right) if rng.random() < 0.5 else (right, left)
            text = _one(frames["pairs"], rng).format(one=one, other=other)
        if style:
            text = _one(frames["pairs_styled"], rng).format(pair=text, style=style)
        return Caption(text, style is not None, placed)

    def _style(self, style: str, rng: np.random.Generator) -> str:
        others = self.suite.styles[style].synonyms
        return _one(others, rng) if others and rng.random() < 0.15 else style

    def words(self, thing: Thing, rng: np.random.Generator) -> tuple[str, str]:
        """A thing with its article, and without."""
        it, frames = thing.object, self.suite.training
        said, noun = it.thing, it.name
        others = it.synonyms + it.phrases
        if others and rng.random() > NAMED:
            noun = _one(others, rng)
            said = noun if noun in it.phrases else with_article(noun)
        for present, key in ((thing.colour, "colours"), (thing.small, "small"), (thing.turned, "turned")):
            if present:
                described = _one(frames[key], rng)
                article, _, bare = said.partition(" ")
                if noun in it.phrases or not bare:
                    article, bare = "", said
                noun = described.format(noun=bare, colour=thing.colour)
                if article in ("a", "an"):
                    article = with_article(noun).partition(" ")[0]
                said = f"{article} {noun}".strip()
        return said, noun

    def _among_strangers(self, text: str, rng: np.random.Generator) -> str:
        """Up to eight words before, up to eight after, seldom one in between."""
        take = lambda n: [self.strange[i] for i in rng.integers(len(self.strange), size=n)]  # noqa: E731
        words = text.split()
        if rng.random() < 0.25 and len(words) > 1:
            words.insert(int(rng.integers(1, len(words))), take(1)[0])
        before = take(int(rng.integers(0, 9))) if rng.random() < 0.6 else []
        after = take(int(rng.integers(0, 9))) if rng.random() < 0.6 else []
        if before and rng.random() < 0.3:
            before[-1] += ","
        return " ".join([*before, *words, *after])


def misspelt(text: str, rng: np.random.Generator) -> str:
    """One letter of one longer word is left out, doubled or swapped with its neighbour."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    at = _one(long, rng)
    word, k = words[at], int(rng.integers(1, len(words[at]) - 1))
    kind = int(rng.integers(3))
    words[at] = (
        word[:k] + word[k + 1 :],
        word[:k] + word[k] + word[k:],
        word[:k] + word[k + 1] + word[k] + word[k + 2 :],
    )[kind]
    return " ".join(words)


def _one(options: Sequence, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]


def _all_words(suite: Suite) -> list[str]:
    """All that means something to the model, and all that the suite's wordings say."""
    from .scenes import COLOURS, TINTS

    objects = [word for it in suite.objects for word in (it.name, *it.synonyms, *it.phrases)]
    styles = [word for name, style in suite.styles.items() for word in (name, *style.synonyms)]
    frames = [text for texts in suite.training.values() for text in texts]
    return [*objects, *styles, *frames, *TINTS, *COLOURS, "left", "right", "and", "with"]
