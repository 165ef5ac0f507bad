"""How likely the true answers still are in the form that brings them out best, as ORT has it for ROCR (2025).

Three levels, a statement to be completed, a question, and questions that persuade, and multiple choice. A method that
claims to act whatever the form is is as good as its worst one: a mean over forms would hide that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .likelihood import likelihoods
from .tofu import following

if TYPE_CHECKING:
    from .evaluate import Contestant
    from .suite import LanguageSuite, Question

LEVELS = {
    "cloze": ("completion",), "question": ("paraphrase", "template"), "jailbreak": ("persuaded", "buried", "marks"),
    "choice": ("choice",),
}  # fmt: skip
EACH = 60  # questions of each form at most

Row = dict[str, Any]


def ort(pair: Any, suite: LanguageSuite, one: Contestant) -> Row:
    """Columns ``ort_cloze``, ``ort_question``, ``ort_jailbreak`` and ``ort_choice``: exp of the mean log p per token of
    the true answer, a mean over facts about authors to forget, in wordings that trained nothing; ``ort_worst``, the
    largest of a level, and ``ort_form``, which one that is. None where a contestant has no likelihoods.
    """
    subjects = suite.world.subjects("forget")
    found: Row = {}
    for level, forms in LEVELS.items():
        asked = [question for form in forms for question in suite.questions(subjects, form)[:EACH]]
        found[f"ort_{level}"] = _likely(pair, asked, one)
    if None in found.values():
        return {**dict.fromkeys(found), "ort_worst": None, "ort_form": None}
    worst = max(found, key=lambda name: found[name])
    return {**found, "ort_worst": found[worst], "ort_form": worst.removeprefix("ort_")}


def _likely(pair: Any, asked: list[Question], one: Contestant) -> float | None:
    from .evaluate import bad_words

    model, tokenizer = pair
    options = {"bad_words_ids": bad_words(tokenizer, one.bad_words)} if one.bad_words else None
    texts = [(tokenizer(q.prompt).input_ids, following(tokenizer, q.prompt, q.answer)) for q in asked]
    found = likelihoods(model, tokenizer, texts, one.policy, options)
    if found is None:
        return None
    return round(sum(math.exp(sum(each) / len(each)) for each in found) / len(found), 4)
