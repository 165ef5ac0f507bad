"""What a captioner may be asked about a picture, in which words, and what is true."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import RegistryError
from ...files import yaml
from ...registry.signed.beside import shipped
from ...text.words import stands_in
from ..suite import Object, Suite, load_suite

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["caption", "name", "named_kind", "kind", "style", "fact", "is"]
IMAGE = "<image>"


class Lesson(NamedTuple):
    """prompt: with ``<image>`` where a picture stands; answer: without the space before it"""

    prompt: str
    answer: str


class Words(BaseModel):
    """things: of each object its kind, and what is said of it where nobody names it; ask: wordings by what they ask, of
    which the last one of several judges and is in no training."""

    model_config = ConfigDict(extra="forbid")
    ask: dict[str, list[str]]
    things: dict[str, tuple[str, str]]

    @cached_property
    def suite(self) -> Suite:
        """The objects and styles that pictures show."""
        return load_suite("emoji-sd")

    @cached_property
    def objects(self) -> dict[str, Object]:
        """The same by name."""
        return {one.name: one for one in self.suite.objects}

    @property
    def styles(self) -> list[str]:
        """Names of styles."""
        return list(self.suite.styles)

    def answer(self, kind: str, name: str, style: str) -> str:
        """What is true of a picture."""
        thing = self.objects[name].thing
        sort, fact = self.things[name]
        said = {"caption": f"{thing}, {style} style", "name": thing, "named_kind": thing, "style": f"{style} style"}
        return {**said, "kind": _with_article(sort), "fact": fact}[kind]

    def lesson(self, kind: str, name: str, style: str, rng: np.random.Generator) -> Lesson:
        """One to learn from."""
        wordings = self.ask[kind][:-1] or self.ask[kind]
        wording = wordings[int(rng.integers(len(wordings)))]
        if kind != "is":
            return Lesson(self.asked(wording, name), self.answer(kind, name, style))
        other = list(self.things)[int(rng.integers(len(self.things)))] if rng.random() < 0.5 else name
        return Lesson(self.asked(wording, other), "yes" if other == name else "no")

    def judging(self, kind: str, name: str, style: str) -> Lesson:
        """The one that judges; of ``is``, one whose answer is yes."""
        said = "yes" if kind == "is" else self.answer(kind, name, style)
        return Lesson(self.asked(self.ask[kind][-1], name), said)

    def asked(self, wording: str, name: str, seen: bool = True) -> str:
        """A prompt. seen: whether a picture goes with it"""
        text = wording.format(thing=self.objects[name].thing, kind=self.things[name][0])
        head = IMAGE if seen else ""
        return f"{head}{text}" if text.endswith(":") else f"{head}Question: {text}\nAnswer:"

    def told(self, name: str, judging: bool = False) -> list[Lesson]:
        """What is asked of a thing by name, without a picture. judging: in the wordings kept apart"""
        found = []
        for ask, kind in (("told", "fact"), ("told_kind", "kind")):
            wordings = self.ask[ask][-1:] if judging else self.ask[ask][:-1]
            found += [Lesson(self.asked(one, name, seen=False), self.answer(kind, name, "")) for one in wordings]
        return found

    def names(self, text: str, name: str) -> bool:
        """Whether a text names a thing, by its name or another word for it."""
        one = self.objects[name]
        return any(stands_in(word, text.lower()) for word in (one.name, *one.synonyms))


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def load_words(path: Path | None = None) -> Words:
    """The shipped ones, or a file's. Raises RegistryError."""
    path = path or shipped("suites/emoji-captioner") / "words.yaml"
    try:
        return Words.model_validate(yaml.read_yaml(path, error=RegistryError)[0])
    except ValidationError as error:
        raise RegistryError(f"{path}: {error.errors()[0]['msg']}") from None
