"""Judges guards on the embedded captioner: each concept, made and measured in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ...errors import PolicyError
from ...host import LanguageModel
from ...making.examples import MARK
from ...plugins import host_for
from ...policy import Policy
from ...sessions.attach import attach
from ..made import made
from .evaluate import Ask, questions
from .words import load_words

TOKENS, ROWS = 20, 64
# At most: of pictures of the concept what is named, and told where nobody names it; of all else what is lost.
BARS = {"erased": 0.05, "unnamed": 0.05}
LOST = 0.03
RANDOM = "at_random"  # the setting of methods that bring their control

Tick = Callable[[int], None]


class Bench:
    """A captioner that comes with pictures; raises PolicyError for another. n: how many of each kind are asked about"""

    def __init__(self, pair: LanguageModel, n: int, tick: Tick = lambda n: None):
        self.pair, self.n, self.tick = pair, n, tick
        self.host: Any = host_for(pair)
        self.folder = Path(str(pair.model.name_or_path))
        self.words = load_words()
        if not (self.folder / MARK).is_file():
            raise PolicyError(f"{pair.name} does not come with pictures to be asked about: give one that does")
        self.sight = self.host.sight()
        self._asked: dict[str, dict[str, list[Ask]]] = {}
        self._before: dict[str, dict[str, list[str]]] = {}

    def asked(self, concept: str) -> dict[str, list[Ask]]:
        """What is asked about a concept. Raises PolicyError for one that the captioner does not know."""
        if concept not in self.words.things and concept not in self.words.styles:
            known = [*self.words.styles, *self.words.things]
            raise PolicyError(f"the captioner knows no '{concept}': give one of {', '.join(known[:9])} and so on")
        if concept not in self._asked:
            self._asked[concept] = questions(self.words, self.folder, concept, self.n)
        return self._asked[concept]

    def before(self, concept: str) -> dict[str, list[str]]:
        """What the captioner says as it is."""
        if concept not in self._before:
            self._before[concept] = self._answered(concept)
        return self._before[concept]

    def bare(self, concept: str) -> dict[str, Any]:
        """The control that does nothing."""
        return self._row("none", concept, self.before(concept))

    def made(self, method: str, concept: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """What a method makes of a concept, attached."""
        name = f"{method}, random" if settings.get(RANDOM) else method
        about = {"name": concept, "prompts": [f"*/{concept}/*" if concept in self.words.styles else concept],
                 "replacement": self._instead(concept)}  # fmt: skip
        self.before(concept)
        return made(self.pair, method, about, out, settings, self._timed, name)

    def _timed(self, policy: Policy, concept: str, seconds: float) -> dict[str, Any]:
        return {**self.guarded(policy, concept), "make_seconds": round(seconds, 2)}

    def guarded(self, policy: Policy, concept: str) -> dict[str, Any]:
        """A policy as it is, judged on a concept."""
        self.before(concept)
        return self._row(policy.name, concept, self._answered(concept, policy))

    def _instead(self, concept: str) -> str:
        """A wrong but plausible name: the next thing of the same kind."""
        if concept in self.words.styles:
            return ""
        kind, names = self.words.things[concept][0], list(self.words.things)
        after = names[names.index(concept) + 1 :] + names[: names.index(concept)]
        return next((name for name in after if self.words.things[name][0] == kind), after[0])

    def _answered(self, concept: str, policy: Policy | None = None) -> dict[str, list[str]]:
        with attach(self.pair, policy) if policy else nullcontext():
            return {name: self.answers(asked) for name, asked in self.asked(concept).items()}

    def answers(self, asked: Sequence[Ask]) -> list[str]:
        """What the model says, greedily."""
        found: dict[int, str] = {}
        order = sorted(range(len(asked)), key=lambda i: (asked[i].picture is None, len(asked[i].lesson.prompt), i))
        for seen in (True, False):
            own = [i for i in order if (asked[i].picture is not None) == seen]
            for some in (own[begin : begin + ROWS] for begin in range(0, len(own), ROWS)):
                found |= zip(some, self._say([asked[i] for i in some]))
                self.tick(len(some))
        return [found[i] for i in range(len(asked))]

    def _say(self, asked: Sequence[Ask]) -> list[str]:
        import torch

        pictures = [one.picture for one in asked if one.picture is not None]
        given = self.sight.read([one.lesson.prompt for one in asked], torch.stack(pictures) if pictures else None)
        out = self.pair.model.generate(**given, max_new_tokens=TOKENS, do_sample=False)
        begin = given["input_ids"].shape[1]
        return [text.strip() for text in self.host.tokenizer.batch_decode(out[:, begin:], skip_special_tokens=True)]

    def _row(self, method: str, concept: str, said: dict[str, list[str]]) -> dict[str, Any]:
        before, asked = self.before(concept), self.asked(concept)
        row: dict[str, Any] = {"method": method, "concept": concept}
        for name, some in asked.items():
            for when, texts in (("before", before[name]), ("after", said[name])):
                right = [one.right(text) for one, text in zip(some, texts)]
                row[f"{name}_{when}"] = round(sum(right) / max(len(right), 1), 4)
        row["identical"] = round(
            sum(a == b for a, b in zip(before["others"], said["others"])) / max(len(said["others"]), 1), 4
        )
        silent = all(row.get(f"{name}_after", 0.0) <= bar for name, bar in BARS.items())
        kept = all(row[f"{name}_before"] - row[f"{name}_after"] <= LOST
                   for name in ("neighbours", "others", "told") if f"{name}_before" in row)  # fmt: skip
        return {**row, "n": self.n, "passes": silent and kept}
