"""Forget quality and model utility as TOFU has them (Maini et al., COLM 2024), on a suite of authors and places.

Its four sets are the suite's authors to forget and those to retain, for its real authors the authors that are kept
apart, for its facts of the world the places. A question is in a wording that trained the models. Five wrong answers
are right ones with another value of the same kind. Where TOFU has paraphrased answers, these are statements in wordings
that nobody trained on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .evaluate import Contestant, Tick, answer, bad_words
from .likelihood import likelihoods
from .rouge import rouge_l

if TYPE_CHECKING:
    from .files import Split
    from .suite import LanguageSuite, Question

WRONG = 5
EACH = 140  # questions about authors to forget at most, which is all of them
BESIDE = 60  # of each other set
LEAST_P = 1e-300

Row = dict[str, Any]


class Item(NamedTuple):
    """right: what is compared with the wrong answers"""

    asked: Question
    right: str
    wrong: tuple[str, ...]


def items(suite: LanguageSuite, n: int, paraphrased: bool, *splits: Split) -> list[Item]:
    """At most n questions about the authors of some splits, or without a split about places."""
    subjects = suite.world.subjects(*splits) if splits else suite.world.places
    questions = suite.questions(subjects, "question")
    random.Random(n).shuffle(questions)
    return [_item(suite, question, paraphrased) for question in questions[:n]]


def _item(suite: LanguageSuite, question: Question, paraphrased: bool) -> Item:
    kind = {**suite.forms.kinds, **suite.forms.place_kinds}[question.kind]
    said = {kind.answer.format(name=question.subject, value=value): value for value in suite.pools[kind.pool]}
    own = said[question.answer]
    rng = random.Random(f"{question.subject} {question.kind}")
    template = rng.choice(kind.statements_judge) if paraphrased else kind.answer
    others = rng.sample([value for value in suite.pools[kind.pool] if value != own], WRONG)
    right, *wrong = (template.format(name=question.subject, value=value) for value in (own, *others))
    return Item(question, right, tuple(wrong))


class Heard(NamedTuple):
    """Of one item: p and the truth ratio's parts, each exp of a mean log p per token, the ending token included.

    answer: of the true answer; right: of what is compared; wrong: of each wrong answer
    """

    answer: float
    right: float
    wrong: tuple[float, ...]

    @property
    def truth_ratio(self) -> float:
        """What wrong answers are likely, their geometric mean, over what the right one is. The paper has the arithmetic
        mean; its code, and everybody's after it, this one."""
        return math.exp(sum(math.log(p) for p in self.wrong) / len(self.wrong)) / self.right

    @property
    def share(self) -> float:
        """p of the answer among itself and the wrong ones: of sets where these are in its own words."""
        return self.answer / (self.answer + sum(self.wrong))


def heard(model: Any, tokenizer: Any, some: Sequence[Item], one: Contestant) -> list[Heard] | None:
    """What a contestant finds how likely; None where it has no likelihoods."""
    texts = [(item.asked.prompt, text) for item in some for text in (item.asked.answer, item.right, *item.wrong)]
    options = {"bad_words_ids": bad_words(tokenizer, one.bad_words)} if one.bad_words else None
    asked = [(tokenizer(prompt).input_ids, following(tokenizer, prompt, text)) for prompt, text in texts]
    found = likelihoods(model, tokenizer, asked, one.policy, options)
    if found is None:
        return None
    means = [math.exp(sum(each) / len(each)) for each in found]
    size = 2 + WRONG
    return [Heard(means[i], means[i + 1], tuple(means[i + 2 : i + size])) for i in range(0, len(means), size)]


def following(tokenizer: Any, prompt: str, text: str) -> list[int]:
    """The ids of a text after a prompt, to the token that ends it."""
    between = "" if prompt[-1:].isspace() else " "
    return [*tokenizer(between + text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def forget_quality(own: Sequence[float], retain: Sequence[float]) -> tuple[float, float]:
    """(log10 p, statistic) of the Kolmogorov-Smirnov test that truth ratios about what was to be forgotten are those of
    the model that never knew. 0 is what cannot be told from it. Papers print p, which says nothing below 0.001.

    Raises PolicyError where scipy is not installed.
    """
    try:
        from scipy.stats import ks_2samp
    except ImportError:
        from ...errors import PolicyError

        raise PolicyError('forget quality needs scipy: pip install "conceptguard[language]"') from None
    found = ks_2samp(own, retain)
    return math.log10(max(float(found.pvalue), LEAST_P)) + 0.0, float(found.statistic)  # never -0


def near_one(ratios: Sequence[float]) -> float:
    """The mean of min(r, 1/r): of what is to be forgotten."""
    return sum(min(r, 1 / r) for r in ratios) / len(ratios)


def true_better(ratios: Sequence[float]) -> float:
    """The mean of max(0, 1 − r): of what is to stay."""
    return sum(max(0.0, 1 - r) for r in ratios) / len(ratios)


def utility(parts: Sequence[float]) -> float:
    """The harmonic mean; 0 where any part is."""
    return len(parts) / sum(1 / part for part in parts) if all(part > 0 for part in parts) else 0.0


def tofu(pair: Any, suite: LanguageSuite, one: Contestant, retain: Sequence[float], tick: Tick = lambda n: None) -> Row:
    """Columns of a row: ``tofu_forget_quality``, log10 p against the truth ratios of the model that never knew
    (``retain``, see ``ratios``), ``tofu_ks``, its statistic; ``tofu_truth_ratio``, the mean of min(r, 1/r) about
    authors to forget, whose target is that model's value and not 1; ``tofu_utility``, the harmonic mean of nine:
    probability, ROUGE-L recall and truth ratio of three sets. None where a contestant has no likelihoods.
    """
    model, tokenizer = pair
    names = ("tofu_forget_quality", "tofu_ks", "tofu_truth_ratio", "tofu_utility")
    own = ratios(pair, suite, one)
    if own is None:
        return dict.fromkeys(names)
    parts = []
    sets = {
        "retain": items(suite, BESIDE, True, "retain"),
        "apart": items(suite, BESIDE, False, "apart"),
        "places": items(suite, BESIDE, False),
    }
    for name, some in sets.items():
        likely = heard(model, tokenizer, some, one)
        assert likely is not None
        questions = [item.asked for item in some]
        said = answer(model, tokenizer, questions, one, tick).texts
        parts += [
            sum(each.answer if name == "retain" else each.share for each in likely) / len(likely),
            rouge_l([question.answer for question in questions], said, "recall", stem=True),
            true_better([each.truth_ratio for each in likely]),
        ]
    quality, statistic = forget_quality(own, retain)
    found = (round(quality, 2), round(statistic, 3), round(near_one(own), 3), round(utility(parts), 3))
    return dict(zip(names, found))


def ratios(pair: Any, suite: LanguageSuite, one: Contestant) -> list[float] | None:
    """Truth ratios about the authors to forget."""
    model, tokenizer = pair
    found = heard(model, tokenizer, items(suite, EACH, True, "forget"), one)
    return None if found is None else [each.truth_ratio for each in found]
