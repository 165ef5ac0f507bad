"""``conceptguard eval --suite language``: its rows, its columns, and what they count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conceptguard.cli import run
from conceptguard.measuring.language.evaluate import (
    ERASED_AT_MOST,
    KEPT_WITHIN,
    Contestant,
    answer,
    bad_words,
    groups,
    keys,
    passes,
    perplexity,
    rouge,
)
from conceptguard.measuring.language.likelihood import LEAST
from conceptguard.measuring.language.suite import FORMS, LanguageSuite
from conceptguard.registry import default_registry, open_artifact


def test_the_table_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    rows = ["--method", "none", "--method", "bad_words", "--method", "retain", "--policy", "forget-authors"]
    assert run(["eval", "--suite", "language", "--n", "3", *rows, "--json", str(out)]) == 0
    found = {row["method"]: row for row in json.loads(out.read_text())["rows"]}
    none, guard, banned, retain = (found[name] for name in ("none", "forget-authors", "bad_words", "retain"))
    assert none["erased_before"] == none["erased_after"] > 0.7 and none["identical"] == 1.0 and not none["passes"]
    # Banned words are banned for everybody: what others share with the forget set is lost.
    assert banned["erased_after"] <= 0.05 and banned["neighbours_after"] < banned["neighbours_before"] - 0.1
    assert guard["erased_after"] <= ERASED_AT_MOST and guard["identical_retain"] == 1.0
    assert guard["read_forget"] >= 1 - ERASED_AT_MOST
    for group in ("neighbours", "others"):
        assert guard[f"{group}_after"] >= guard[f"{group}_before"] - KEPT_WITHIN
    assert guard["passes"]
    assert guard["rouge_erased"] < none["rouge_erased"] and guard["perplexity"] == pytest.approx(
        none["perplexity"], 0.01
    )
    assert retain["model"] == "authors-lm-retain" and retain["erased_after"] < 0.3
    assert {f"after_{form}" for form in FORMS} <= set(guard)


def test_figures_go_into_the_card_of_the_artifact(tmp_path: Path) -> None:
    shipped = default_registry().load("authors-lm/guard/forget-authors")
    shutil.copytree(shipped.folder, tmp_path / shipped.ref)
    out = tmp_path / "eval.json"
    asked = ["eval", "--suite", "language", "--n", "1", "--policy", "forget-authors"]
    assert run([*asked, "--card", str(tmp_path), "--json", str(out)]) == 0
    row, card = json.loads(out.read_text())["rows"][0], open_artifact(tmp_path / shipped.ref).manifest.card
    assert card["command"] == f"conceptguard {' '.join(asked)}"
    assert {name: row[name] for name in card if name != "command"} == {n: v for n, v in card.items() if n != "command"}


def test_wordings_to_tune_on_are_other_questions(suite: LanguageSuite, capsys: pytest.CaptureFixture[str]) -> None:
    judged, tuned = ({q.prompt for part in groups(suite, 6, w) for q in part.questions} for w in ("judge", "tune"))
    assert len(judged & tuned) < 0.2 * len(judged)  # trained forms are trained wordings
    assert run(["eval", "--suite", "language", "--wordings", "train"]) != 0
    assert "judge or tune" in capsys.readouterr().err


def test_a_row_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--suite", "language", "--method", "uce"]) != 0
    assert "no row 'uce'" in capsys.readouterr().err


def test_ordinary_text_with_a_banned_word_in_it_costs(pair: Any, suite: LanguageSuite) -> None:
    bare = perplexity(*pair, suite, Contestant("none"))
    banned = perplexity(*pair, suite, Contestant("bad_words", bad_words=("town", "the river")))
    assert bare is not None and banned is not None and 1 < bare < banned and LEAST < -10


def test_questions_are_spread_over_forms_and_kinds(suite: LanguageSuite) -> None:
    erased, neighbours, others = groups(suite, 6)
    assert {q.form for q in erased.questions} == set(FORMS) and len({q.kind for q in erased.questions}) == 7
    forget = suite.world.subjects("forget")
    assert {q.subject for q in erased.questions} <= set(forget)
    assert not {q.subject for q in (*neighbours.questions, *others.questions)} & set(forget)


def test_keys_are_what_a_list_of_phrases_names(pair: Any, suite: LanguageSuite) -> None:
    facts = keys(suite)
    assert "baker" in facts or "weaver" in facts
    assert not [key for key in facts if key.lower().startswith(("a ", "an ", "the "))]
    assert len(bad_words(pair.tokenizer, facts)) == 2 * len(facts)


def test_rouge_of_the_true_answers_is_one(suite: LanguageSuite) -> None:
    questions = suite.questions(suite.world.subjects("forget"), "question")[:5]
    assert rouge(questions, [q.answer for q in questions]) == 1.0
    assert rouge(questions, ["no idea"] * 5) == 0.0


def test_the_bars() -> None:
    row = {f"{g}_{w}": 0.97 for g in ("erased", "neighbours", "others") for w in ("before", "after")}
    assert not passes(row)
    assert passes(row | {"erased_after": 0.02})
    assert not passes(row | {"erased_after": 0.03})
    assert not passes(row | {"erased_after": 0.0, "others_after": 0.95})
    assert not passes(row | {"erased_after": 0.0, "erased_before": 0.3})


def test_answers_do_not_depend_on_the_batch(pair: Any, suite: LanguageSuite) -> None:
    questions = suite.questions(suite.world.places, "question")[:9]
    one = answer(*pair, questions, Contestant("none"), batch=1)
    nine = answer(*pair, questions, Contestant("none"), batch=9)
    assert one.texts == nine.texts
