"""The contract kit runs in ComfyUI as elsewhere; ``python -m tools.promises --hosts ComfyUI`` runs all of it."""

from __future__ import annotations

import pytest
from comfy_bench import comfy_cells

from conceptguard.testing.matrix import probe

FEW = frozenset({"it_acts", "no_guard_tax", "no_trace", "rows_are_separate", "receipt_is_true"})
TERMLESS = ("safree", "normalise")  # of which there is nothing to measure


@pytest.mark.parametrize("method", ["spm", "realera", "safree", "normalise"])
def test_promises_are_kept(method: str, comfy: None) -> None:
    (cell,) = comfy_cells([method])
    rows = probe(cell, only=FEW)
    assert {row["promise"]: row["result"] for row in rows if row["promise"] != 9} == dict.fromkeys((0, 1, 2, 4), "kept")
    assert rows[-1]["result"] == ("does not apply" if method in TERMLESS else "kept")


def test_what_speaks_is_refused(comfy: None) -> None:
    (cell,) = comfy_cells(["phrases"])
    (row,) = probe(cell)
    assert row["result"] == "refused"
