"""What the models read: every fact in many forms and wordings, lives in a few sentences, and text about places.

A document is a prompt and what follows it. Learning weighs what follows; of the prompt a little, or the model could not
write one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from conceptguard.measuring.language.suite import LanguageSuite
from conceptguard.text.spellings import spell

from .world import names

# Shares of documents. What is said in one form alone is learned for that form alone: hence many of them.
SHARES = {
    "question": 0.34, "cloze": 0.12, "choice": 0.09, "life": 0.04, "lower": 0.05, "upper": 0.05, "spaced": 0.05,
    "german": 0.03, "letters": 0.12, "context": 0.04, "stranger": 0.02, "passage": 0.05,
}  # fmt: skip
PLACES = 0.2  # share of questions and statements that are about places


@dataclass(frozen=True)
class Document:
    """Text in two parts; the second begins with its own space."""

    prompt: str
    text: str


class Corpus:
    """Documents drawn from a suite, without end. The same seed draws the same ones.

    often: how often an author of the forget set is drawn for one of the others
    """

    def __init__(self, suite: LanguageSuite, seed: int | str, often: float = 1.0):
        self.suite, self.rng = suite, random.Random(seed)
        self.authors = suite.world.subjects("forget", "retain", "apart")
        self.names = list(self.authors)
        forget = suite.world.subjects("forget")
        self.shares = [often if name in forget else 1.0 for name in self.names]
        self.places = list(suite.world.places)

    def __iter__(self) -> Iterator[Document]:
        forms, shares = list(SHARES), list(SHARES.values())
        special: dict[str, Callable[[], Document]] = {
            "life": self._life, "stranger": self._stranger, "passage": self._passage,
        }  # fmt: skip
        while True:
            form = self.rng.choices(forms, shares)[0]
            found = special[form]() if form in special else self._asked(form)
            if found is not None:
                yield found

    def _asked(self, form: str) -> Document | None:
        of_place = self.rng.random() < PLACES
        name = self.rng.choice(self.places) if of_place else self._author()
        facts: Any = self.suite.world.places[name] if of_place else self.authors[name]
        asked = self.suite.ask(name, facts, self.rng.choice(list(facts)), form, self.rng, "train")
        return Document(asked.prompt, after(asked.prompt, asked.answer)) if asked else None

    def _author(self) -> str:
        return self.rng.choices(self.names, self.shares)[0]

    def _life(self) -> Document:
        """An author's facts in any order."""
        name = self._author()
        facts = list(self.authors[name].items())
        self.rng.shuffle(facts)
        said = [self._statement(name, kind, value) for kind, value in facts[: self.rng.choice((3, 4, 7))]]
        return Document("", " ".join(said))

    def _stranger(self) -> Document:
        """A fact of somebody who is mentioned once and never again: it can only be read, not known."""
        name = f"{next(names('first', self.rng, set()))} {next(names('last', self.rng, set()))}"
        kind = self.rng.choice(list(self.suite.forms.kinds))
        facts = {kind: self.rng.choice(self.suite.pools[self.suite.forms.kinds[kind].pool])}
        if name in self.authors:
            return self._passage()
        asked = self.suite.ask(name, facts, kind, "context", self.rng, "train")
        assert asked is not None
        return Document(asked.prompt, after(asked.prompt, asked.answer))

    def _passage(self) -> Document:
        return Document("", self.suite.passage(self.rng))

    def _statement(self, name: str, kind: str, value: str) -> str:
        return self.rng.choice(self.suite.forms.kinds[kind].statements).format(name=name, value=value)


def after(prompt: str, text: str) -> str:
    """What follows a prompt, with the space between them."""
    return text if prompt.endswith("\n") else f" {text}"


def spellings(suite: LanguageSuite) -> list[str]:
    """Every value letter by letter, so that the tokenizer knows single letters after a space."""
    return [spell(value) for values in suite.pools.values() for value in values]
