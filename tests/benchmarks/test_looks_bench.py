"""What ``bench check`` times, on a small model."""

from __future__ import annotations

from typing import Any

import pytest
from commands import reported, said

from conceptguard.benchmarks.looks import poster


def test_every_look_is_timed_alone_and_all_together(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conceptguard.benchmarks.subjects.load_model", lambda name, **options: tiny)
    words = "bench check --size emoji-sd --method code --method watermark --method text --repeats 1"
    rows = reported(capsys, *words.split())["rows"]
    assert [row["method"] for row in rows] == ["code", "watermark", "text", "code, watermark, text"]
    assert all(row["ms"] > 0 and row["ms_bare"] == rows[0]["ms_bare"] > 0 and row["side"] == 64 for row in rows)
    assert all(row["share"] == pytest.approx(row["ms"] / row["ms_bare"], rel=0.01, abs=1e-3) for row in rows)
    assert [row["flagged"] for row in rows] == ["", "", "text", "text"], "the picture has writing, and it is looked at"


@pytest.mark.parametrize("method", ["probe", "sld"])
def test_other_methods_are_refused(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "bench", "check", "--method", method, status=1)[1]
    assert "acts by its name alone: try nsfw" in " ".join(told.split())


@pytest.mark.parametrize("side", [64, 512])
def test_the_picture_has_writing(side: int) -> None:
    picture = poster(side)
    assert picture.shape == (1, 3, side, side) and 0 <= picture.min() < 0.2 and picture.max() <= 1
