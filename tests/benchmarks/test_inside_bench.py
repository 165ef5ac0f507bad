"""Rows of ``conceptguard bench logits --hidden``: a guard that is shut, and one that does act."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from tiny_language import tiny_llama, tokenizer

import conceptguard
from conceptguard.benchmarks import inside as bench
from conceptguard.cli import run
from conceptguard.plugins import host_for


def test_what_is_timed_is_shut_and_open(tmp_path: Any) -> None:
    model, tok = tiny_llama(), tokenizer()
    rows = list(bench.inside(model, tok, 4, 2, time.perf_counter, lambda n: None))
    assert [row["inside"] for row in rows] == ["closed", "open"]
    assert all(row["ratio_bare"] > 0 and row["ms"] > 0 and row["ms_bare"] > 0 for row in rows)
    artifact, given = bench._artifact(host_for((model, tok)), tmp_path), tok("The history", return_tensors="pt")

    def scores() -> torch.Tensor:
        options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        return model.generate(given["input_ids"], **options).logits[0]

    bare, guarded = scores(), []
    for gate in bench.STATES.values():
        with conceptguard.attach((model, tok), {"guards": [{"method": "rocr", "artifact": artifact, "gate": gate}]}):
            guarded.append(scores())
    assert torch.equal(guarded[0], bare) and not torch.equal(guarded[1], bare)


def test_the_classifier_is_timed_on_a_long_prompt(monkeypatch: Any) -> None:
    """The one that ships, which has to read the words: a prompt of a hundred times as many takes it longer."""
    model, tok = tiny_llama(), tokenizer()
    long = bench.reading(model, tok, time.perf_counter)
    assert long["prompt"] == 512 and long["share_prompt"] == pytest.approx(long["ms"] / long["ms_bare"])
    monkeypatch.setattr(bench, "PROMPT", 5)
    assert 3 * bench.reading(model, tok, time.perf_counter)["ms"] < long["ms"]


def test_it_is_of_a_model(capsys: Any) -> None:
    assert run(["bench", "logits", "--hidden"]) == 2
    assert "add --model" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_from_the_command_line(capsys: Any) -> None:
    asked = ["--n", "10", "--batch", "1", "--tokens", "4", "--model", "authors-lm", "--hidden"]
    assert run(["bench", "logits", *asked, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["inside"] for row in rows if "inside" in row] == ["closed", "open", "classifier"]
