"""The table of promises: every method is asked in every host, and what comes out is what the kit found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from broken_methods import DoesNothing

from conceptguard import PolicyError, plugins
from conceptguard.testing import Bench, Case, NotApplicable
from conceptguard.testing.kit_guards import offered
from conceptguard.testing.matrix import Cell, probe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import promises  # noqa: E402
from tools.methods import names  # noqa: E402
from tools.promise_tables import promise_tables  # noqa: E402

SLD = {"method": "sld", "concept": promises.CONCEPT}
COMMANDED = ["no_thinking", "trce"]
FEW = frozenset({"it_acts", "no_guard_tax", "pickle_refused"})


def cell(tiny: Any, **guard: Any) -> Cell:
    case = Case(guard or SLD, opens="a cigarette", load=lambda: tiny)
    return Cell(case.guard["method"], "here", lambda: case)


def test_kept_and_what_does_not_apply(tiny: Any) -> None:
    rows = probe(cell(tiny), only=FEW)
    assert [(row["promise"], row["result"], row["checks"]) for row in rows] == [
        (0, "kept", 1), (1, "kept", 1), (8, "does not apply", 0),
    ]  # fmt: skip
    assert not rows[0]["why"] and "no artifact" in rows[2]["why"]


def test_a_broken_promise_is_named(tiny: Any) -> None:
    with offered(DoesNothing):
        rows = probe(cell(tiny, method=DoesNothing.name), only=FEW)
    assert rows[0]["result"] == "broken" and rows[0]["why"].startswith("it_acts: ")
    assert f"**broken: it acts** (`{DoesNothing.name}`): it\\_acts: " in promise_tables([{"rows": rows}])


def test_a_host_that_refuses_says_why(tiny: Any) -> None:
    (row,) = probe(cell(tiny, method="no_thinking"))
    assert (row["promise"], row["result"]) == (None, "refused") and "stand aside" in row["why"]


def test_no_case_is_no_promise_broken() -> None:
    def none() -> Case:
        raise NotApplicable("nothing to see")

    (row,) = probe(Cell("probe", "here", none))
    assert (row["result"], row["why"]) == ("does not apply", "nothing to see")


def test_no_artifact_for_a_host_is_a_refusal() -> None:
    def none() -> Case:
        raise PolicyError("itd works on CLIP text encoders")

    (row,) = probe(Cell("itd", "here", none))
    assert row["result"] == "refused" and row["why"] == "itd works on CLIP text encoders"


def test_another_bench_judges(tiny: Any) -> None:
    """A host that is called otherwise brings a bench of its own."""

    class Mine(Bench):
        used = False

        def generate(self, *args: Any, **options: Any) -> Any:
            Mine.used = True
            return super().generate(*args, **options)

    one = cell(tiny)
    rows = probe(Cell(one.method, one.host, one.case, bench=Mine), only=frozenset({"it_acts"}))
    assert Mine.used and rows[0]["result"] == "kept", rows[0]["why"]


def test_every_shipped_method_is_asked_everywhere() -> None:
    asked = {(cell.method, cell.host) for cell in promises.cells()}
    assert asked == {
        (method, host)
        for method in names()
        if not plugins.method(method).modules
        for host in (*promises.PIPELINES, promises.SPEAKS)
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A few checks from the command line, in hosts that take a method and in one that does not."""
    path = tmp_path_factory.mktemp("promises") / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "tools.promises", "--only", ",".join(COMMANDED), "--hosts", "SD 1.x,transformers",
         "--checks", "it_acts", "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(path.read_text())["rows"])


@pytest.mark.parametrize("method", COMMANDED)
def test_the_command(method: str, found: list[dict[str, Any]]) -> None:
    assert sorted(row["result"] for row in found if row["method"] == method) == ["kept", "refused"]
