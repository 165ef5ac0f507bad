"""Fault injection: the tests that inject faults; how many were tried, and how many did no harm.

    python -m tools.faults --json FILE            # those that every change must pass
    python -m tools.faults --full --json FILE     # every write, every byte of room, hundreds of servers: a quarter hour

A test tells how many faults it tried by the property ``faults``, and is one fault without it. Where it passes, all of
them were survived: what was there is there, or what was to be there, what leaves is whole, and nothing is left over.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from conceptguard.version import __version__

ROOT = Path(__file__).parents[1]
REGISTRY, HOOKS = "tests/registry", "tests/sessions/test_faults_in_hooks.py"
COMFYUI = "tests/hosts/comfyui/test_comfyui_faults.py"


class Kind(NamedTuple):
    """One row. tests: files, or single tests of them."""

    fault: str
    where: str
    tests: tuple[str, ...]


KINDS = (
    Kind("killed while writing", "an artifact that is added, replaced or removed", (
        f"{REGISTRY}/test_registry_interrupted.py::test_killed_while_another_version_is_added",
        f"{REGISTRY}/test_registry_interrupted.py::test_killed_while_it_is_removed",
    )),
    Kind("killed while writing", "the index of a large registry", (
        f"{REGISTRY}/test_index_interrupted.py::test_killed_while_the_index_changes",
    )),
    Kind("killed while writing", "its catalogue in the cache", (
        f"{REGISTRY}/test_index_interrupted.py::test_killed_while_a_catalogue_is_made",
    )),
    Kind("a full disk, or a folder that cannot be written", "artifacts, cache, home", (
        f"{REGISTRY}/test_registry_interrupted.py::test_no_room_for_it",
        f"{REGISTRY}/test_registry_interrupted.py::test_folders_that_cannot_be_written",
    )),
    Kind("a full disk", "index and catalogue", (
        f"{REGISTRY}/test_index_interrupted.py::test_no_room_for_index_and_catalogue",
    )),
    Kind("damaged pages, as of a power cut", "a catalogue", (
        f"{REGISTRY}/test_registry_large.py::test_a_damaged_page_of_a_catalogue_is_told_once",
    )),
    Kind("a clock that is set back", "signatures that had expired", (
        f"{REGISTRY}/test_signed_hostile.py::test_a_clock_that_is_set_back",
    )),
    Kind("slow servers, answers cut short, other hosts", "an index over HTTP", (
        f"{REGISTRY}/test_registry_network.py::test_one_byte_at_a_time_has_an_end",
        f"{REGISTRY}/test_registry_network.py::test_an_answer_cut_short_is_none",
        f"{REGISTRY}/test_registry_network.py::test_another_host_is_not_asked",
    )),
    Kind("answers that are slow, broken or false, at random", "index, shards and files of a registry", (
        f"{REGISTRY}/test_registry_lying.py::test_a_server_that_cannot_be_relied_on",
    )),
    Kind("false answers, at random", "metadata, index and files of a signed registry", (
        f"{REGISTRY}/test_registry_lying.py::test_a_mirror_of_a_signed_registry_that_lies_in_any_byte",
    )),
    Kind("exceptions and interrupts", "every hook, diffusers", (f"{HOOKS}::test_a_picture_is_whole_or_none",)),
    Kind("exceptions and interrupts", "every hook, modular pipelines", (
        f"{HOOKS}::test_a_modular_picture_is_whole_or_none",
    )),
    Kind("exceptions and interrupts", "every hook, ComfyUI", (COMFYUI,)),
    Kind("exceptions and interrupts", "every hook, language models", (f"{HOOKS}::test_a_text_is_whole_or_none",)),
)  # fmt: skip


class Counting:
    """A plugin of pytest: faults by test, as far as they passed."""

    def __init__(self) -> None:
        self.tried: dict[str, int] = {}
        self.survived: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One phase of one test; a set-up that fails or is skipped is a fault that was not tried, and is told."""
        test = report.nodeid.split("[")[0]
        if report.when == "call":
            told = int(dict(report.user_properties).get("faults", 1))
            self.tried[test] = self.tried.get(test, 0) + told
            self.survived[test] = self.survived.get(test, 0) + told * report.passed
        elif report.when == "setup" and not report.passed:
            print(f"{report.nodeid}: {report.outcome}: {report.longrepr}", file=sys.stderr)


def row(kind: Kind, counted: Counting) -> dict[str, Any]:
    """What came of one kind of fault. Raises SystemExit where none of its tests ran."""
    # Of a kind, single tests may be slow ones; one at least runs always.
    seen = [[test for test in counted.tried if test == asked or test.startswith(f"{asked}::")] for asked in kind.tests]
    if not any(seen):
        raise SystemExit(f"{kind.fault}, {kind.where}: none of its tests ran")
    tests = [test for some in seen for test in some]
    tried = sum(counted.tried[test] for test in tests)
    survived = sum(counted.survived[test] for test in tests)
    return {"fault": kind.fault, "where": kind.where, "tried": tried, "survived": survived, "tests": tests}


def main() -> None:
    """The command of the module's docstring."""
    import pytest

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", required=True, metavar="FILE")
    parser.add_argument("--full", action="store_true", help="the slow ones as well")
    given = parser.parse_args()
    begin, counted = time.perf_counter(), Counting()
    asked = [str(ROOT / test) for kind in KINDS for test in kind.tests]
    marks = "not gpu" if given.full else "not gpu and not slow"
    patience = ["--timeout", str(2 * 3600)] if given.full else []  # a busy machine is no fault
    pytest.main(
        ["-m", marks, *patience, "-o", "addopts=", "-q", f"--rootdir={ROOT}", "-p", "no:cacheprovider", *asked],
        plugins=[counted],
    )
    result = {
        "command": "faults", "version": __version__, "device": "cpu", "rows": [row(kind, counted) for kind in KINDS],
        "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
    Path(given.json).write_text(json.dumps(result, ensure_ascii=False, indent=1), "utf-8")


if __name__ == "__main__":
    main()
