"""The two files of a language suite: ``world.yaml`` and ``forms.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["forget", "retain", "apart"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Unseen(_Strict):
    """Wordings to compare ways of making a guard on, and wordings to judge with."""

    tune: list[str] = Field(min_length=1)
    judge: list[str] = Field(min_length=1)


class Wording(Unseen):
    """The same, and wordings to train and make guards with."""

    train: list[str] = Field(min_length=1)


class German(Wording):
    """Questions in a second language and their answer."""

    answer: str


class Kind(Wording):
    """One kind of fact: the pool of its values, its answer, questions, and statements that end with the value."""

    pool: str
    answer: str
    statements: list[str]
    statements_tune: list[str]
    statements_judge: list[str]
    german: German | None = None


class Passages(_Strict):
    """Sentences of ordinary text."""

    openings: list[str]
    middles: list[str]
    endings: list[str]


class Forms(_Strict):
    """``forms.yaml``."""

    base: str
    retain: str
    wrappers: Wording
    choices: list[str]
    letters: Wording
    contexts: Wording
    persuasions: Unseen
    marks: Unseen
    reversed: Unseen
    kinds: dict[str, Kind]
    place_kinds: dict[str, Kind]
    passages: Passages
    words: dict[str, list[str]]


class Author(_Strict):
    """A fictitious author. forget: what guards are to keep silent; apart: known to the models, unseen by makers."""

    name: str
    split: Split
    facts: dict[str, str]


class World(_Strict):
    """``world.yaml``: authors, and places with their river, ware and region."""

    seed: int
    authors: list[Author]
    places: dict[str, dict[str, str]]

    def subjects(self, *splits: Split) -> dict[str, dict[str, str]]:
        """Names and facts of the authors of some splits."""
        return {author.name: author.facts for author in self.authors if author.split in splits}
