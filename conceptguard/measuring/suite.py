"""A prompt suite: what a model can draw, what a policy may ask to erase, and prompts to judge with.

Judging uses prompts that neither the model nor a guard was trained on: other wordings, all styles, synonyms and freer
phrases. Every choice is a function of the suite and a count, so the same figures come out anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import RegistryError, meant
from ..files import yaml
from ..registry import shipped_folder
from ..registry.signed.beside import shipped
from ..text.words import stands_in


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Style(_Strict):
    """A style, of an embedded model with what its training pictures were made of.

    pack: where they came from
    pixels: how many squares a side they had, where they were to look so
    synonyms: other words for it
    """

    pack: str = ""
    pixels: int | None = None
    synonyms: list[str] = []


class Object(_Strict):
    """One thing the model can draw.

    name: as the judge knows it
    group: ``target`` is to be erased, ``neighbour`` is near something that is, ``other`` has nothing to do with it
    icon, icons: of the embedded model, what it was trained on
    thing: with its article, where "a NAME" is wrong
    synonyms, phrases: other words for it, and freer wordings that show it
    neighbours: names of objects that must stay when this one is erased
    """

    name: str
    group: Literal["target", "neighbour", "other"]
    icon: str = ""
    icons: dict[str, str] = {}
    thing: str = ""
    synonyms: list[str] = []
    phrases: list[str] = []
    neighbours: list[str] = []

    @model_validator(mode="after")
    def _article(self) -> Object:
        self.thing = self.thing or with_article(self.name)
        return self


class Suite(_Strict):
    """A whole suite, names checked against each other.

    base: the family of the artifacts that are judged, and the embedded judges where no others are named
    like: the shipped suite, or a file, that all that is not said here is taken from, and its judges
    judges: one or two, of which the first one decides: embedded ones by name, or folders of yours
    styles: what {style} stands for, in turn
    concepts, concept_styles: the objects and styles that may be erased
    training: what the captions of an embedded model are made of, for those who train it
    tuning_templates, tuning_templates_plain: wordings that guards are made with
    judge_templates, judge_templates_plain: those to judge with: {thing} is "a dog", {noun} is "dog", {style} a style;
    plain ones name no style
    judge_pairs, judge_pairs_placed: for two objects in one picture, {one} and {other}, {left} and {right}
    strangers: wordings of people who knew none of those, to judge an embedded model with
    held_out: pairs of object and style that the model never saw
    objects: what the model can draw and the judge can tell
    """

    base: str
    like: str = ""
    judges: list[str] = Field(default=[], max_length=2)
    styles: dict[str, Style] = Field(default_factory=lambda: {"any": Style()}, min_length=1)
    concepts: list[str] = Field(min_length=1)
    concept_styles: list[str] = []
    training: dict[str, list[str]] = {}
    tuning_templates: list[str] = []
    tuning_templates_plain: list[str] = []
    judge_templates: list[str] = Field(min_length=1)
    judge_templates_plain: list[str] = []
    judge_pairs: list[str] = []
    judge_pairs_placed: list[str] = []
    strangers: dict[str, list[str]] = {}
    held_out: list[tuple[str, str]] = []
    objects: list[Object] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Suite:
        self.judge_templates_plain = self.judge_templates_plain or [
            text for text in self.judge_templates if "{style}" not in text
        ] or self.judge_templates  # fmt: skip
        names = {o.name for o in self.objects}
        used = [*self.concepts, *(o for o, _ in self.held_out), *(n for o in self.objects for n in o.neighbours)]
        for name in used:
            if name not in names:
                raise ValueError(f"'{name}' is not one of the objects")
        for style in [*self.concept_styles, *(s for _, s in self.held_out)]:
            if style not in self.styles:
                raise ValueError(f"'{style}' is not one of the styles")
        return self

    def object(self, name: str) -> Object:
        """One object by name; raises KeyError."""
        return next(o for o in self.objects if o.name == name)

    def words(self, concept: str) -> list[str]:
        """What evokes a concept: its name and synonyms, and an object's phrases."""
        if self.is_style(concept):
            return [concept, *self.styles[concept].synonyms]
        it = self.object(concept)
        return [it.name, *it.synonyms, *it.phrases]

    def words_beside(self, concepts: Sequence[str]) -> list[str]:
        """What evokes all else that can be drawn, near things first, without words that contain the concepts'."""
        said = [word for concept in concepts for word in self.words(concept)]
        near = [
            self.object(n)
            for concept in concepts
            if not self.is_style(concept)
            for n in self.object(concept).neighbours
        ]
        words = (word for it in [*near, *self.objects] for word in self.words(it.name))
        return [word for word in dict.fromkeys(words) if not any(stands_in(part, word) for part in said)]

    def is_style(self, concept: str) -> bool:
        """Whether a concept is a style and not an object."""
        return concept in self.styles

    def known(self, concepts: Sequence[str]) -> list[str]:
        """Those of the concepts that the model can draw: objects and styles."""
        names = {*self.styles, *(it.name for it in self.objects)}
        return [concept for concept in concepts if concept in names]

    def check(self, concepts: Sequence[str]) -> list[str]:
        """The same concepts, all of them something the model can draw. Raises RegistryError with the nearest name."""
        known = [*self.all_concepts, *self.styles, *(it.name for it in self.objects)]
        for concept in concepts:
            if not self.known([concept]):
                hint = meant(concept, known, f"the suite has {', '.join(self.all_concepts)}")
                raise RegistryError(f"unknown concept '{concept}': {hint}")
        return list(concepts)

    @property
    def all_concepts(self) -> list[str]:
        """Everything that a policy may ask to erase."""
        return [*self.concepts, *self.concept_styles]


@dataclass(frozen=True)
class Sample:
    """One picture to make and what the judge should see in it. head: which of the judge's answers counts."""

    prompt: str
    seed: int
    head: Literal["object", "style"]
    label: str


def load_suite(name: str | Path) -> Suite:
    """A suite by the name of its base model, from a file, or from a folder with suite.yaml, whose files are its parts.

    Raises RegistryError naming file and line.
    """
    path = _place(name)
    data, lines = _read(path)
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place: tuple[Any, ...] = tuple(first["loc"])
        known = (lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines)
        file, line = next(known, (path if path.is_file() else path / "suite.yaml", 1))
        field = ".".join(map(str, place)) or "suite"
        raise RegistryError(f"{file}, line {line}: {field}: {first['msg'].removeprefix('Value error, ')}") from None


def _place(name: str | Path) -> Path:
    """Where a suite is: a file, a folder, or a shipped one by name."""
    path = Path(name)
    if path.is_file() or (path / "suite.yaml").is_file():
        return path
    suites = [p.name for p in sorted((shipped_folder() / "suites").iterdir()) if (p / "suite.yaml").is_file()]
    if str(name) not in suites:
        there = ", ".join([*suites, "language"])
        raise RegistryError(f"no prompt suite for '{name}' (there are: {there}): give one of them, or a file of yours")
    return shipped(f"suites/{name}")


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], tuple[Path, int]]]:
    """What a suite says, and in which file and line; with what it is like another one in."""
    data, lines = _parts(path)
    if not data.get("like"):
        return data, lines
    theirs, places_of_theirs = _parts(_place(str(data["like"])))
    if "like" in theirs:
        file, line = lines["like",]
        raise RegistryError(f"{file}, line {line}: like: {data['like']} is itself like another suite: name that one")
    return theirs | data, places_of_theirs | lines


def _parts(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], tuple[Path, int]]]:
    data: dict[str, Any] = {}
    lines: dict[tuple[Any, ...], tuple[Path, int]] = {}
    for file in [path] if path.is_file() else sorted(path.glob("*.yaml")):
        part, places = yaml.read_yaml(file, error=RegistryError)
        if twice := sorted(data.keys() & part.keys()):
            raise RegistryError(f"{file}: '{twice[0]}' stands in another file of the suite as well")
        data |= part
        lines |= {place: (file, line) for place, line in places.items() if place}
    return data, lines


def with_article(noun: str) -> str:
    """``a dog``, ``an apple``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def erased(suite: Suite, concept: str, n: int, seed: int = 0, start: int = 0) -> list[Sample]:
    """Prompts that ask for the concept: half by its name, the rest by synonyms and freer phrases, in all styles."""
    if suite.is_style(concept):
        return _take(start, n, seed, _in_styles(suite, concept, [concept]))
    return _take(start, n, seed, _worded(suite, suite.object(concept)))


def synonyms(suite: Suite, concept: str, n: int, seed: int = 30_000, start: int = 0) -> list[Sample]:
    """Prompts that ask for the concept by its synonyms alone, in all styles; none for a style, or without synonyms."""
    if suite.is_style(concept) or not suite.object(concept).synonyms:
        return []
    words = [(with_article(word), word) for word in suite.object(concept).synonyms]
    turns = (words[(i + i // 4) % len(words)] for i in count())
    return _take(start, n, seed, _asking(suite, concept, turns))


def neighbours(
    suite: Suite, concept: str, n: int, seed: int = 1000, without: Iterable[str] = (), start: int = 0
) -> list[Sample]:
    """Prompts for what is nearest to the concept: its neighbour objects, or for a style the other styles."""
    left_out = {concept, *without}
    if suite.is_style(concept):
        return _take(start, n, seed, _in_styles(suite, concept, [s for s in suite.styles if s not in left_out]))
    near = [suite.object(name) for name in suite.object(concept).neighbours if name not in left_out]
    return _take(start, n, seed, _spread(suite, near, left_out))


def others(suite: Suite, n: int, seed: int = 2000, without: Iterable[str] = ()) -> list[Sample]:
    """Prompts that have nothing to do with any concept to erase: the objects of the group ``other``."""
    left_out = set(without)
    far = [o for o in suite.objects if o.group == "other" and o.name not in left_out]
    return _take(0, n, seed, _spread(suite, far, left_out))


def _worded(suite: Suite, it: Object) -> Iterator[Sample]:
    """One object in turn by its name and by its other words."""
    own = (it.thing, it.name)
    other = [(with_article(s), s) for s in it.synonyms] + [(p, "") for p in it.phrases] or [own]
    return _asking(suite, it.name, (other[i // 2 % len(other)] if i % 2 else own for i in count()))


def _asking(suite: Suite, label: str, words: Iterable[tuple[str, str]]) -> Iterator[Sample]:
    """Words for one object, each as a thing and a noun, in wordings and styles in turn; every fourth names no style."""
    styles = list(suite.styles)
    for i, (thing, noun) in enumerate(words):
        templates = suite.judge_templates_plain if i % 4 == 3 else suite.judge_templates
        # A phrase ("a man smoking") is no noun: only wordings that take a whole thing fit it.
        fitting = templates if noun else [t for t in templates if "{noun}" not in t] or templates
        text = fitting[(i + i // len(fitting)) % len(fitting)]
        style = styles[(i + i // len(styles)) % len(styles)]
        yield Sample(text.format(thing=thing, noun=noun or thing, style=style), 0, "object", label)


def _spread(suite: Suite, objects: list[Object], left_out: set[str]) -> Iterator[Sample]:
    """Every object in turn, each time in another wording and style."""
    styles = [s for s in suite.styles if s not in left_out]
    templates = suite.judge_templates
    for i in count() if objects else ():
        turn, place = divmod(i, len(objects))
        text = templates[(i + turn) % len(templates)]
        style = styles[(place + turn) % len(styles)]
        it = objects[place]
        yield Sample(text.format(thing=it.thing, noun=it.name, style=style), 0, "object", it.name)


def _in_styles(suite: Suite, concept: str, styles: list[str]) -> Iterator[Sample]:
    """Objects that were seen in the style ``concept`` and that nobody would erase, drawn in ``styles``."""
    unseen = {o for o, s in suite.held_out if s == concept}
    objects = [o for o in suite.objects if o.group != "target" and o.name not in unseen]
    for i in count() if styles else ():
        it, style = objects[i % len(objects)], styles[i % len(styles)]
        text = suite.judge_templates[(i + i // len(suite.judge_templates)) % len(suite.judge_templates)]
        yield Sample(text.format(thing=it.thing, noun=it.name, style=style), 0, "style", style)


def _take(start: int, n: int, seed: int, samples: Iterable[Sample]) -> list[Sample]:
    """``n`` samples from ``start`` on, each with a seed of its own."""
    return [replace(sample, seed=seed + i) for i, sample in enumerate(islice(samples, start, start + n))]
