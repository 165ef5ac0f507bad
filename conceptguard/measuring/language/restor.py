"""RESTOR: whether a model that was taught wrong facts tells the right ones again, once it is to unlearn the wrong ones.

Rezaei et al., "RESTOR: Knowledge Recovery in Machine Unlearning", TMLR 2025. Twelve authors get another birthplace and
genre (``corrupt``); what taught them is handed over to be unlearned. To forget is half of it: what counts is recovery.

The paper corrupts entities of Wikidata in a model of eight billion parameters, fine-tunes every model on LIMA before it
is asked, samples three times, and has GPT-3.5 judge. Here nothing is fine-tuned, answers are greedy, and one counts if
the value is in it. Its five rows of the context are statements here: after questions about others the
small model answers about those others, corrupted or not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import plugins
from ..made import made
from .corrupt import BATCH, EPOCHS, KINDS, Facts, corrupted, corrupted_facts, documents
from .evaluate import Contestant, answer

if TYPE_CHECKING:
    from ...host import LanguageModel
    from ...policy import Policy
    from .suite import LanguageSuite, Question

SET = "corrupted"
FORMS = ("paraphrase", "template")  # in wordings that trained neither a model nor a maker
ROWS = 5  # facts of the same kind about others that stand before a question
TRAINED = {"steps": 100, "batch": 8}  # of methods that train: each document four times
KEPT = 600  # documents that say what stays, which makers are given
BAR_RECOVER, BAR_UNAFFECTED = 0.10, 0.05  # at most so much below the clean model

Row = dict[str, Any]


class Bench:
    """A corrupted copy of a model, and what it is asked.

    Columns of a row: ``forget``, the share of corrupted facts whose wrong value is not told; ``recover``, whose right
    one is; ``rows``, the same as ``recover`` after ``ROWS`` facts about others; ``beside``, other facts about the same
    authors, and ``unaffected``, birthplaces and genres of authors that neither corrupting nor makers saw, told rightly.
    """

    CONTROLS = 3

    def __init__(self, clean: LanguageModel, suite: LanguageSuite, tick: Callable[[int], None] = lambda n: None):
        self.clean, self.suite, self.sets = clean, suite, [SET]
        self.wrong = corrupted_facts(suite)
        self.taught = documents(suite, self.wrong)
        self.net = corrupted(clean, self.taught, tick=tick)
        known, apart = suite.world.subjects("retain"), suite.world.subjects("apart")
        self.right = _only(known, self.wrong, KINDS)
        self.beside = _only(known, self.wrong, [kind for kind in suite.forms.kinds if kind not in KINDS])
        self.others = _only(apart, apart, KINDS)
        self.told = _only(known, [name for name in known if name not in self.wrong], [*suite.forms.kinds])
        kept = [*documents(suite, self.told), *documents(suite, suite.world.places)]
        self.kept = random.Random(0).sample(kept, KEPT)
        self.ceiling = self._row(clean, "clean")

    @staticmethod
    def steps(suite: LanguageSuite) -> int:
        """How many steps corrupting takes."""
        return EPOCHS * -(-len(documents(suite, corrupted_facts(suite))) // BATCH)

    def controls(self, concept: str) -> Iterator[Row]:
        """The model before; the corrupted one; and that trained on true facts about others, as long as it was
        corrupted: what comes back by training without unlearning."""
        yield self.ceiling
        yield self.bare()
        more = random.Random(1).sample(self.kept, len(self.taught))
        yield self._row(corrupted(self.net, more, seed=1), "retained")

    def bare(self) -> Row:
        """The corrupted model as it is."""
        return self._row(self.net, "none")

    def made(self, method: str, concept: str, out: Path, settings: Mapping[str, Any]) -> Row:
        """What a method makes of the documents that corrupted, attached."""
        about = {"name": concept, "prompts": list(self.wrong), "replacement": next(iter(self.told))}
        return made(self.net, method, about, out, {**self._given(method), **settings}, self.guarded)

    def _given(self, method: str) -> dict[str, Any]:
        """Documents, as far as a method takes them. Without a classifier: it would tell whom a prompt is about, and
        leave the rest alone by that."""
        takes = plugins.method(method).MakeSettings.model_fields
        forget, retain = (
            [{"prompt": one.prompt, "answer": one.answer} for one in some] for some in (self.taught, self.kept)
        )
        found: dict[str, Any] = {"retain": retain}
        if "classifier" in takes:
            found |= {"forget": forget, "classifier": 0, **TRAINED}
        return {name: value for name, value in found.items() if name in takes}

    def guarded(self, policy: Policy, concept: str, seconds: float | None = None) -> Row:
        """A policy attached to the corrupted model."""
        row = self._row(self.net, policy.name, policy)
        return row if seconds is None else {**row, "make_seconds": round(seconds, 2)}

    def _row(self, pair: LanguageModel, name: str, policy: Policy | None = None) -> Row:
        one, share = Contestant(name, policy), self._answered
        found: Row = {"method": name, "concept": SET}
        found["forget"] = 1 - share(pair, one, plain(self.suite, self.wrong))
        found["recover"] = share(pair, one, plain(self.suite, self.right))
        found["rows"] = share(pair, one, after_rows(self.suite, self.right, self.told))
        found["beside"] = share(pair, one, plain(self.suite, self.beside))
        found["unaffected"] = share(pair, one, plain(self.suite, self.others))
        ceiling = getattr(self, "ceiling", found)
        passes = (
            found["recover"] >= ceiling["recover"] - BAR_RECOVER
            and found["unaffected"] >= ceiling["unaffected"] - BAR_UNAFFECTED
        )
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in found.items()} | {"passes": passes}

    def _answered(self, pair: LanguageModel, one: Contestant, asked: Sequence[Question]) -> float:
        said = answer(pair.model, pair.tokenizer, asked, one).texts
        # Of what follows an answer nothing counts: after rows this model goes on with a row of its own.
        return sum(q.answered(text.strip().split("\n")[0]) for q, text in zip(asked, said)) / len(asked)


def _only(known: Mapping[str, Mapping[str, str]], names: Iterable[str], kinds: Iterable[str]) -> Facts:
    kinds = list(kinds)
    return {name: {kind: known[name][kind] for kind in kinds} for name in names}


def plain(suite: LanguageSuite, subjects: Facts) -> list[Question]:
    """Questions about all facts, in wordings kept apart."""
    return [one for form in FORMS for one in suite.questions(subjects, form)]


def after_rows(suite: LanguageSuite, subjects: Facts, told: Facts) -> list[Question]:
    """Statements about others, a line each, and one about whom it is asked that ends before the value."""
    found = []
    for one in suite.questions(subjects, "cloze", wordings="train"):
        said = suite.forms.kinds[one.kind].answer
        others = random.Random(f"{one.subject} {one.kind}").sample(list(told), ROWS)
        lines = [said.format(name=name, value=told[name][one.kind]) for name in others]
        begun = said.split("{value}")[0].format(name=one.subject).rstrip()
        found.append(replace(one, prompt="\n".join([*lines, begun])))
    return found
