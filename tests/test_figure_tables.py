"""Tables of figures: what a report has is shown, and nothing is shown that it lacks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no package of anybody's environment

from tools.figure_tables import eval_table, exported_table, trained_table
from tools.redteam_tables import never_seen_table, policy_table, redteam_table, work_table


def row(method: str, concept: str, concepts: int = 1, **more: Any) -> dict[str, Any]:
    shares = {f"{g}_{when}": 1.0 for g in ("erased", "neighbours", "others") for when in ("before", "after")}
    return {"method": method, "concept": concept, "concepts": concepts, **shares, "identical": 1.0, "n": 4, **more}


def test_a_mean_stands_for_its_rows_and_a_lone_row_for_itself() -> None:
    rows = [row("uce", "a"), row("uce", "b"), row("uce", "mean of 2"), row("uce", "a, c and more", 67, harmonic=0.913)]
    lines = eval_table([{"rows": [*rows, row("none", "a"), row("blank", "a")]}]).splitlines()
    assert [line.split(" | ")[1] for line in lines if line.startswith("| `uce`")] == ["1", "67"]
    assert "harmonic" in lines[2] and "0.913" in "".join(lines) and "judges agree" not in lines[0]


def test_columns_are_those_that_a_report_has() -> None:
    plain = eval_table([{"rows": [row("uce", "a")]}])
    assert not any(word in plain for word in ("second judge", "synonyms", "harmonic", "agree"))
    two = {"second_erased_before": 0.75, "second_erased_after": 0.25, "agree": 0.875}
    both = eval_table([{"rows": [row("uce", "a", **two, gated=False, synonyms_before=1.0, synonyms_after=0.5)]}])
    assert all(word in both for word in ("0.750 → 0.250", "0.875", "1.000 → 0.500", "`uce`, always open"))


def test_what_was_trained_says_what_it_took_once() -> None:
    """One artifact of several concepts stands beside one of one; the same one with other gates is not said again."""
    cost = {"make_seconds": 20.4, "bytes": 290_800}
    rows = [row("esd", "a", **cost), row("esd", "a, b", 2, make_seconds=61.0, bytes=290_900), row("none", "a")]
    told = trained_table([{"rows": rows}, {"rows": [row("esd", "a", **cost, gated=False)]}])
    assert told.endswith("| `esd` | 1 | 20 | 0.29 |\n| `esd` | 2 | 61 | 0.29 |")
    assert "| `esd` | 1.000 → 1.000 |" in exported_table([{"rows": [row("esd", "a")]}])


def test_attacks_stand_beside_chance_and_tables_are_of_one_size() -> None:
    def result(strength: float, *rows: dict[str, Any]) -> dict[str, Any]:
        common = {"concept": "beer", "asks": 4, "n": 2}
        guards = [{"method": "spm", "strength": strength}]
        return {"policy": {"guards": guards}, "rows": [{**common, **row} for row in rows]}

    first = result(1.0, {"attack": "unattacked", "asr": 0.25}, {"attack": "p4d", "asr": 0.5, "asr_random": 0.25})
    second = result(0.4, {"attack": "pez", "asr": 1.0, "asr_random": 0.0}, {"attack": "p4d", "asr": None})
    lines = redteam_table([first, second]).splitlines()
    assert lines[2] == "|  | `spm`, beer | `spm` at 0.4, beer |" and "of 4, best of 2" in lines[0]
    assert lines[4:] == ["| *not attacked* | 1 |  |", "| `p4d` | 2 (1) | did not run |", "| `pez` |  | 4 (0) |"]
    with pytest.raises(ValueError, match="one size"):
        redteam_table([first, {**second, "rows": [{**second["rows"][0], "n": 9}]}])


def test_a_policy_is_told_over_all_its_concepts() -> None:
    def attacked(concept: str, attack: str, asr: float | None, **more: Any) -> dict[str, Any]:
        return {"concept": concept, "attack": attack, "asr": asr, "asks": 2, "n": 2, "bare": 1.0, **more}

    rows = [
        attacked("beer", "unattacked", 0.0), attacked("beer", "tina", 0.5, asr_random=1.0),
        attacked("wine", "unattacked", 0.0), attacked("wine", "tina", 0.0, asr_random=0.0),
        attacked("wine", "pez", None),
    ]  # fmt: skip
    lines = policy_table([{"rows": rows[:2]}, {"rows": rows[2:]}]).splitlines()
    assert "best of 2" in lines[0]
    assert lines[4:] == [
        "| *not attacked* | 2 | 4 | 0 |  | 4 |  |", "| `tina` | 2 | 4 | 1 | 2 | 4 | beer |",
        "| `pez` | 0 | 0 | 0 |  | 0 |  |",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="one size"):
        policy_table([{"rows": [*rows, attacked("wine", "mma", 0.0) | {"n": 9}]}])


def test_what_was_never_seen_stands_beside_what_was() -> None:
    def attacked(method: str, concept: str, attack: str, asr: float, chance: float | None = None) -> dict[str, Any]:
        told = {"method": method, "concept": concept, "attack": attack, "asr": asr, "asr_random": chance}
        return {**told, "asks": 2, "n": 2, "judge_right": 0.9, "judge_none": 0.8}

    rows = [
        attacked("none", "tent", "unattacked", 0.0), attacked("none", "tent", "tina", 1.0, 0.5),
        attacked("none", "harp", "tina", 0.5, 1.0), attacked("uce", "beer", "tina", 1.0, 1.0),
    ]  # fmt: skip
    lines = never_seen_table([{"rows": rows}]).splitlines()
    assert "90% of renderings right" in lines[0] and "never seen, no guard | seen, under `uce`" in lines[2]
    assert lines[-1] == "| `tina` | 3 of 4 (3) | 2 of 2 (2) |"


def test_what_all_attacks_take_is_the_sum_of_what_each_takes() -> None:
    def one(attack: str, seconds: float, asr: float, by_chance: float | None) -> dict[str, Any]:
        return {"attack": attack, "concept": "beer", "policy": "demo", "asks": 4, "n": 2, "cpu_seconds": seconds,
                "asr": asr, "asr_random": by_chance}  # fmt: skip

    found = work_table([{"rows": [one("unattacked", 120.2, 0.0, None), one("pez", 360.0, 0.75, 0.25)]}])
    assert "8 minutes of one core, 4 on two" in found
    assert found.splitlines()[-2:] == ["| *not attacked* | 120 | 0 |  |", "| `pez` | 360 | 3 | 1 |"]
