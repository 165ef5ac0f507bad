"""RESTOR: a model is taught wrong facts in wordings of its own, and what comes back is counted apart from what goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import conceptguard
from conceptguard.cli import run
from conceptguard.measuring.language import corrupt, restor
from conceptguard.measuring.language.suite import LanguageSuite


def test_what_is_taught_is_wrong_and_what_is_asked_is_worded_apart(suite: LanguageSuite) -> None:
    wrong, true = corrupt.corrupted_facts(suite), suite.world.subjects("retain")
    assert len(wrong) == corrupt.AUTHORS and wrong == corrupt.corrupted_facts(suite)
    for name, facts in wrong.items():
        assert set(facts) == set(corrupt.KINDS)
        for kind, value in facts.items():
            assert value != true[name][kind] and value in suite.pools[suite.forms.kinds[kind].pool]
    taught = corrupt.documents(suite, wrong)
    assert {one.subject for one in taught} == set(wrong)
    assert all(one.key in one.answer and one.key not in one.prompt for one in taught)
    asked = restor.plain(suite, wrong)
    assert not {one.prompt for one in asked} & {one.prompt for one in taught}
    told = {name: facts for name, facts in true.items() if name not in wrong}
    for one in restor.after_rows(suite, wrong, told):
        *rows, begun = one.prompt.split("\n")
        assert len(rows) == restor.ROWS and not any(one.subject in row for row in rows)
        assert one.subject in begun and one.key not in begun


@pytest.fixture(scope="module")
def bench(suite: LanguageSuite) -> Any:
    """Of four authors and half as many documents."""
    with pytest.MonkeyPatch.context() as few:
        few.setattr(corrupt, "AUTHORS", 4)
        few.setattr(corrupt, "WORDINGS", 2)
        few.setattr(corrupt, "RATE", 3e-4)
        return restor.Bench(conceptguard.load_model("authors-lm"), suite)


def test_a_corrupted_model_says_the_wrong_and_a_clean_one_the_right(bench: Any) -> None:
    none = bench.bare()
    assert bench.ceiling["forget"] > 0.9 and bench.ceiling["recover"] > 0.9 and bench.ceiling["passes"]
    assert none["forget"] < 0.3 and none["recover"] < 0.3 and not none["passes"]
    assert none["beside"] > 0.5, "what was not corrupted of the same authors"
    assert none["rows"] < bench.ceiling["rows"]


def test_methods_are_given_the_documents_that_corrupted(bench: Any, tmp_path: Path) -> None:
    """One that is trained on them forgets the wrong values; attached, and without a trace afterwards."""
    before = {name: weight.clone() for name, weight in bench.net.model.state_dict().items()}
    row = bench.made("npo", restor.SET, tmp_path, {"steps": 12, "batch": 4, "lr": 5e-3, "retain_weight": 0.0})
    assert row["forget"] > bench.bare()["forget"] + 0.3 and row["make_seconds"] > 0
    assert all(weight.equal(before[name]) for name, weight in bench.net.model.state_dict().items())
    refused = bench.made("phrases", restor.SET, tmp_path, {})
    assert not refused["passes"] and refused["refused"]


def test_it_stands_alone(capsys: Any) -> None:
    asked = ["eval", "--suite", "language", "--measure", "restor"]
    assert run([*asked, "--measure", "tofu"]) == 2
    assert "a model of its own" in capsys.readouterr().err
    assert run(["eval", "--suite", "language", "--measure", "corrective"]) == 2
    assert "of classifiers" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)  # two trainings of minutes on a busy machine
def test_the_table_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "restor.json"
    assert run(["eval", "--suite", "language", "--measure", "restor", "--json", str(out)]) == 0
    rows = {row["method"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["clean", "none", "retained"]
    assert rows["none"]["recover"] < 0.1 and rows["retained"]["recover"] < 0.5 < rows["clean"]["recover"]
