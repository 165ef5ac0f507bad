"""A suite that is like another one: what it does not say itself, and who judges, is the other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptguard.errors import RegistryError
from conceptguard.measuring.judges import load_judges
from conceptguard.measuring.suite import load_suite


def test_emoji_flow_is_asked_what_emoji_sd_is_asked() -> None:
    flow, sd = load_suite("emoji-flow"), load_suite("emoji-sd")
    assert flow.base == "emoji-flow" and sd.base == "emoji-sd"
    assert flow.model_copy(update={"base": "emoji-sd", "like": ""}) == sd
    assert load_judges(flow).names == load_judges(sd).names


def test_what_it_says_itself_counts(tmp_path: Path) -> None:
    file = tmp_path / "few.yaml"
    file.write_text("base: mine\nlike: emoji-sd\nconcepts: [beer]\n")
    assert load_suite(file).concepts == ["beer"]
    file.write_text("base: mine\nlike: emoji-sd\nconcepts: [ber]\n")
    with pytest.raises(RegistryError, match=r"few.yaml, line 1: suite: 'ber' is not one of the objects"):
        load_suite(file)


@pytest.mark.parametrize(("like", "message"), [
    ("emoji-flow", "line 2: like: emoji-flow is itself like another suite"),
    ("few.yaml", "line 2: like: few.yaml is itself like another suite"),
    ("emoji", "no prompt suite for 'emoji'"),
])  # fmt: skip
def test_of_whom_it_may_be_like(like: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.yaml").write_text(f"base: mine\nlike: {like}\n")
    with pytest.raises(RegistryError, match=message):
        load_suite("few.yaml")
