"""``conceptguard bench speech``: the same answers are timed with guards and without."""

from __future__ import annotations

from typing import Any

import pytest
from commands import reported

from conceptguard.benchmarks.speech import _same


@pytest.mark.slow
def test_answers_under_a_bank_beside_bare_ones(capsys: Any) -> None:
    rows = reported(capsys, "bench", "speech", "--n", 20, "--tokens", 6, "--repeats", 1, "--batch", "1,2")["rows"]
    assert [(row["phrases"], row["batch"]) for row in rows] == [(20, 1), (20, 2)]
    assert all(row["ratio_bare"] > 0 and row["tokens_a_second"] > 0 and row["same"] == 1 for row in rows)


def test_what_fills_a_row_up_is_no_difference() -> None:
    assert _same([[5, 2, 0, 0]], [[5, 2]]) == 1 and _same([[5, 6]], [[5, 7]]) == 0
