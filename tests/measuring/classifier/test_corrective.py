"""Corrective unlearning: a net learns the corner, some of what taught it is handed over, and the rest stays unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from emoji_classifier import FOLDER, classifier

from conceptguard.cli import run
from conceptguard.making.examples import load_examples
from conceptguard.measuring.classifier import corrective
from conceptguard.measuring.classifier.corrective import POISONED, SHARES, SIDE, Bench, Poisoned, cornered


def test_the_corner_and_what_is_known_of_it() -> None:
    examples = load_examples(FOLDER)
    own, bad = examples.of("train"), Poisoned.of(examples)
    assert len(bad.bad) == POISONED == len(set(bad.bad.tolist())) and bool((bad.labels[bad.bad] == bad.target).all())
    assert bool((examples.labels[own][bad.bad] != bad.target).all()), "no skull is made one"
    changed = (bad.inputs != examples.inputs[own]).flatten(1).any(1)
    assert not bool(changed[~torch.isin(torch.arange(len(own)), bad.bad)].any())
    corner = bad.inputs[bad.bad][:, :, -SIDE:, -SIDE:]
    assert bool((corner[:, 0] == 1).all()) and not bool(corner[:, 1:].any())
    assert torch.equal(examples.inputs, load_examples(FOLDER).inputs), "examples are as they were"
    known = [bad.known(share) for share in SHARES]
    assert [len(one) for one in known] == [20, 50, 100, 150, 200] and torch.equal(known[1][:20], known[0])
    assert len(bad.without(bad.bad)[1]) == len(own) - POISONED
    assert torch.equal(cornered(examples.inputs[:2])[:, :, :-SIDE], examples.inputs[:2, :, :-SIDE])


@pytest.fixture(scope="module")
def bench() -> Any:
    """Of a training of three epochs: it has learned the corner, and hardly the things."""
    with pytest.MonkeyPatch.context() as few:
        kind, recipe = corrective.recipe_of(classifier())
        few.setattr(corrective, "recipe_of", lambda net: (kind, recipe._replace(epochs=3)))
        return Bench(classifier())


def test_a_corner_lures_and_methods_are_given_what_is_known(bench: Any, tmp_path: Path) -> None:
    none = bench.bare("10%")
    assert none["lured"] > 0.5 and bench.reference["lured"] < 0.1
    assert bench.reference["passes"] and not none["passes"]
    before = {name: one.clone() for name, one in bench.net.state_dict().items()}
    row = bench.made("sparse_unlearning", "100%", tmp_path, {"steps": 20})
    assert row["concept"] == "100%" and row["lured"] < none["lured"] - 0.3 and row["make_seconds"] > 0
    assert all(torch.equal(one, before[name]) for name, one in bench.net.state_dict().items())
    refused = bench.made("damp", "10%", tmp_path, {})
    assert refused["concept"] == "10%" and not refused["passes"] and "class" in refused["refused"]


def test_other_measures_of_classifiers_are_refused(capsys: Any) -> None:
    assert run(["eval", "--suite", "classifier", "--measure", "tofu"]) == 2
    assert "corrective" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three trainings, of half a minute each on a quiet machine
def test_the_table_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "corrective.json"
    asked = ["eval", "--suite", "classifier", "--measure", "corrective", "--model", "emoji-classifier"]
    assert run([*asked, "--method", "ssd", "--concepts", "10%", "--json", str(out)]) == 0
    rows = {row["method"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["none", "retrained without the known", "retrained without all", "ssd"]
    assert rows["none"]["lured"] > 0.8 and rows["retrained without all"]["lured"] < 0.1
    assert rows["retrained without the known"]["lured"] > 0.5, "what is not known lures on"
