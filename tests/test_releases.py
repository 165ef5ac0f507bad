"""The oldest and the newest releases of the libraries that pyproject.toml admits, each in a folder of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import releases


def test_every_library_has_an_oldest_release() -> None:
    assert len(releases.wanted(releases.HOSTS[0])) == len(releases.LIBRARIES) + len(releases.BESIDE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("host", releases.HOSTS)
def test_the_contract_holds(host: str) -> None:
    try:
        rows = releases.probed(host)
    except RuntimeError as error:
        if "cannot be fetched" not in str(error):
            raise
        pytest.skip(str(error))
    if host == releases.HOSTS[0]:
        pins = releases.wanted(host)[: len(releases.LIBRARIES)]
        assert rows[0]["releases"] == ", ".join(pin.replace("==", " ") for pin in pins)
    assert not [row for row in rows if row["result"] in ("broken", "refused")]
    assert {row["method"] for row in rows if row["promise"] == 0 and row["result"] == "kept"} == {
        "spm", "sld", "guard", "phrases",
    }  # fmt: skip
