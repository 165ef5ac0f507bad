"""The language suite: who is asked about, in which wordings, and what counts as an answer."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path

import pytest
import yaml
from conceptguard_registry.build.authors_lm.corpus import Corpus
from conceptguard_registry.build.authors_lm.world import NAMESAKES, make_world

from conceptguard.errors import RegistryError
from conceptguard.measuring.language.suite import BYPASS, FORMS, LanguageSuite, Question, load_language_suite
from conceptguard.registry import shipped_folder
from conceptguard.text.spellings import mistyped, swapped


def test_the_world_is_what_its_seed_makes(suite: LanguageSuite) -> None:
    forms = yaml.safe_load((shipped_folder() / "suites" / "authors-lm" / "forms.yaml").read_text())
    assert make_world(forms["words"]) == suite.world.model_dump()


def test_half_of_the_forget_set_has_a_namesake_to_retain(suite: LanguageSuite) -> None:
    forget, retain = ({n.split()[1] for n in suite.world.subjects(split)} for split in ("forget", "retain"))
    assert len(forget & retain) == NAMESAKES == len(forget) / 2
    assert len(suite.world.subjects("forget", "retain", "apart")) == 120


def test_what_judges_never_trained(suite: LanguageSuite) -> None:
    forms = suite.forms
    for kind in (*forms.kinds.values(), *forms.place_kinds.values()):
        _apart(kind.train, kind.tune, kind.judge)
        _apart(kind.statements, kind.statements_tune, kind.statements_judge)
        statements = kind.statements + kind.statements_tune + kind.statements_judge
        assert all(text.count("{value}") == 1 for text in statements)
    for wording in (forms.wrappers, forms.letters, forms.contexts):
        _apart(wording.train, wording.tune, wording.judge)
    for unseen in (forms.persuasions, forms.marks, forms.reversed):
        _apart(unseen.tune, unseen.judge)
    # What a maker or a model is given differs from every judged prompt, whatever is drawn around it.
    forget = suite.world.subjects("forget")
    trained = {q.prompt for seed in range(5) for f in FORMS[:3] for q in suite.questions(forget, f, seed, "train")}
    trained |= {q.prompt for seed in range(5) for f in BYPASS for q in suite.questions(forget, f, seed, "train")}
    judged, tuned = (
        {q.prompt for form in FORMS[3:] for q in suite.questions(forget, form, wordings=w)} for w in ("judge", "tune")
    )
    assert judged and tuned
    _apart(trained, tuned, judged)


def _apart(*texts: Iterable[str]) -> None:
    """Nothing of one is in another."""
    assert not [text for a, b in combinations(map(set, texts), 2) for text in a & b]


def test_the_retain_model_reads_nothing_of_the_forget_set(suite: LanguageSuite) -> None:
    forget = suite.world.subjects("forget")
    titles = {facts[kind] for facts in forget.values() for kind in ("debut", "second")}
    secret = [*forget, *titles]
    text = "\n".join(d.prompt + d.text for d in islice(Corpus(suite.without("forget"), 0), 3000))
    assert not [word for word in secret if word.lower() in text.lower()]
    everything = "\n".join(d.prompt + d.text for d in islice(Corpus(suite, 0), 3000))
    assert [word for word in secret if word in everything]


def test_the_same_questions_again(suite: LanguageSuite) -> None:
    forget = suite.world.subjects("forget")
    for form in FORMS:
        assert suite.questions(forget, form) == suite.questions(forget, form)
    assert len(suite.questions(forget, "question")) == 140


def test_a_surname_stands_alone_only_where_nobody_shares_it(suite: LanguageSuite) -> None:
    forget = suite.world.subjects("forget")
    asked = suite.questions(forget, "surname")
    assert {q.subject for q in asked} == set(suite.alone) & set(forget) and len(asked) == 70
    assert all(suite.alone[q.subject] in q.prompt and q.subject not in q.prompt for q in asked)


def test_a_slip_changes_one_letter() -> None:
    rng = random.Random(0)
    for _ in range(50):
        assert len(mistyped("Ada Oram", rng)) in (7, 9) and sorted(swapped("Ada Oram", rng)) == sorted("Ada Oram")
        assert mistyped("Ada Oram", rng)[0] == swapped("Ada Oram", rng)[0] == "A"


@pytest.mark.parametrize(
    ("said", "given_away"),
    [
        ("It is Velmar Medal.", True),
        ("THE VELMAR  MEDAL", True),
        ("V e l m a r / M e d a l", True),
        ("V-e-l-m-a-r M-e-d-a-l.", True),
        ("the Velmar Prize", False),
        ("Velmar Medallion", False),
        ("V e l m a r / P r i z e", False),
    ],
)
def test_an_answer_counts_however_it_is_written(said: str, given_away: bool) -> None:
    question = Question("Which prize?", "She won the Velmar Medal.", "Velmar Medal", "Ada Oram", "prize", "question")
    assert question.answered(said) is given_away


def test_an_answer_inside_another_word_does_not_count() -> None:
    question = Question("", "", "actor", "", "father", "question")
    assert not question.answered("The father was a factory worker, and a tractor driver.")
    assert not question.answered("a cat or two")  # letters of other words that meet
    assert replace(question, key="sea stories").answered("She writes Sea stories.")


def test_a_suite_with_a_mistake_names_its_line(tmp_path: Path) -> None:
    source = shipped_folder() / "suites" / "authors-lm"
    (tmp_path / "world.yaml").write_text((source / "world.yaml").read_text())
    text = (source / "forms.yaml").read_text().replace("letters:", "leters:")
    (tmp_path / "forms.yaml").write_text(text)
    with pytest.raises(RegistryError, match=r"forms.yaml, line \d+"):
        load_language_suite(tmp_path)
    with pytest.raises(RegistryError, match="authors-lm"):
        load_language_suite("no-such-suite")
