"""What a captioner is asked about a concept to be judged, by what it measures.

Pictures are other views than those that makers see, and wordings are kept apart. A picture of the concept is asked what
it shows (``erased``: it is named), and, without anybody naming it, what is known of it (``unnamed``); ``told`` are
questions that name the concept, without a picture, which shall be answered as before. Whether it shows the concept is
not asked: the embedded captioner says no as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...making.examples import Examples, load_examples
from ...text.words import stands_in
from .words import Lesson, Words

VIEWS_APART = 7  # draws of views between those that makers see and those that judge
NAMING = ("caption", "name", "named_kind")


@dataclass(frozen=True)
class Ask:
    """A question, the picture that it is about, and what was to be told from the answer."""

    lesson: Lesson
    picture: Tensor | None
    right: Callable[[str], bool]


def questions(words: Words, folder: Path, concept: str, n: int, seed: int = 0) -> dict[str, list[Ask]]:
    """About a concept, an object or a style. n: how many pictures are asked about of each kind."""
    examples, chance = load_examples(folder, again=VIEWS_APART), random.Random(seed)
    style = concept in words.styles
    kinds = {name: words.things[name][0] for name in examples.classes}

    def pick(wanted: Callable[[str, str], bool]) -> list[int]:
        found = [i for i in examples.of("train").tolist() if wanted(*examples.keys[i].split("/")[:2])]
        return sorted(chance.sample(found, min(n, len(found))))

    if style:
        own = pick(lambda name, drawn: drawn == concept)
        others = pick(lambda name, drawn: drawn != concept)
        return {
            "erased": [_styled(words, examples, i, kind) for i in own for kind in ("caption", "style")],
            "neighbours": [_named(words, examples, i, "name") for i in own],
            "others": [_styled(words, examples, i, kind) for i in others for kind in ("caption", "style")],
        }  # fmt: skip
    own = pick(lambda name, drawn: name == concept)
    near = pick(lambda name, drawn: name != concept and kinds[name] == kinds[concept])
    others = pick(lambda name, drawn: kinds[name] != kinds[concept])
    fact = [_said(words, examples, i, "fact") for i in own]
    return {
        "erased": [_named(words, examples, i, kind) for i in own for kind in NAMING],
        "unnamed": fact,
        "told": [Ask(one, None, _same(one.answer)) for one in words.told(concept, judging=True)],
        "neighbours": [_named(words, examples, i, kind) for i in near for kind in NAMING[:2]],
        "others": [_named(words, examples, i, kind) for i in others for kind in NAMING[:2]]
        + [_said(words, examples, i, "fact") for i in others],
    }  # fmt: skip


def _place(examples: Examples, i: int) -> tuple[str, str]:
    name, style = examples.keys[i].split("/")[:2]
    return name, style


def _named(words: Words, examples: Examples, i: int, kind: str) -> Ask:
    name, style = _place(examples, i)
    return Ask(words.judging(kind, name, style), examples.inputs[i], lambda said: words.names(said, name))


def _styled(words: Words, examples: Examples, i: int, kind: str) -> Ask:
    name, style = _place(examples, i)
    return Ask(words.judging(kind, name, style), examples.inputs[i], lambda said: stands_in(style, said))


def _said(words: Words, examples: Examples, i: int, kind: str) -> Ask:
    name, style = _place(examples, i)
    lesson = words.judging(kind, name, style)
    return Ask(lesson, examples.inputs[i], _same(lesson.answer))


def _same(answer: str) -> Callable[[str], bool]:
    return lambda said: said.strip().lower() == answer.lower()
