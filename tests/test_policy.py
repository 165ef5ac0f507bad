"""Policy files: what is wrong in one is told by its line, with the nearest right word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import conceptguard
from conceptguard.errors import PolicyError


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: x\nguard: []\n", r":2: unknown key 'guard': did you mean 'guards'\?"),
        ("on_violation: blurr\n", r":1: on_violation: 'blurr' is not one of 'flag', 'blur'"),
        ("guards:\n  - {method: smp, artifact: x}\n", r":2: unknown method 'smp': did you mean 'spm'\?"),
        ("guards:\n  - {method: spm}\n", r":2: method 'spm' needs an artifact"),
        (
            "guards:\n  - method: spm\n    artifact: x\n    strenght: 2\n",
            r":4: unknown key 'strenght': did you mean 'strength'\?",
        ),
        ("guards:\n  - method: spm\n    artifact: x\n    gate: often\n", r":4: guards\.0\.gate"),
        ("guards:\n  - method: spm\n    artifact: x\n    compat: paperr\n", r":4: guards\.0\.compat: 'paperr' is not"),
        (
            "guards:\n  - method: lora\n    concept: {name: a, prompts: []}\n",
            r":3: guards\.0\.concept\.prompts: a conc",
        ),
        (
            "guards:\n  - {method: uce, artifact: x, gate: always, preserve: [rose]}\n",
            r":2: preserve is what a gate by prompt stays shut for",
        ),
        ("guards:\n  - {method: nudenet, preserve: [rose]}\n", r":2: preserve is what a gate by prompt"),
        ("guards: [\n", r"line 2"),
        ("- a\n", r"a policy is a mapping"),
    ],
)
def test_policy_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "school.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        conceptguard.load_policy(path)
    assert "school.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "policy",
    [
        {"on_violation": "a\nb\x1b[2J\u009e"}, {"a\nb\x1b[2J": 1}, {"guards": [{"method": "a\nb\x1b[2J"}]},
        {"guards": [{"method": "sld", "level": "a\nb\x1b[2J"}]}, {"on_violation": "long" * 5000}, "a.yaml\x1b[2J",
        {"guards": [{"method": "sld", "concept": {"name": "a", "prompts": ["a"], "b\x1b\nc": 1}}]},
    ],
    ids=["value", "key", "method", "setting", "long", "name", "concept"],
)  # fmt: skip
def test_what_an_error_quotes_is_one_line_that_steers_no_terminal(policy: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        conceptguard.load_policy(policy)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2000


def test_policy_that_is_not_there() -> None:
    with pytest.raises(PolicyError, match=r"no policy file or shipped policy 'scholl\.yaml'"):
        conceptguard.load_policy("scholl.yaml")


def test_a_long_policy_on_one_line_is_text() -> None:
    """Longer than a file's name can be."""
    guard = {"method": "phrases", "concept": {"name": "x", "prompts": ["a phrase"] * 100}}
    assert conceptguard.load_policy(json.dumps({"guards": [guard]})) == conceptguard.load_policy({"guards": [guard]})
    for text in ("a" * 5000, "\n\n#\n", "a\nb"):
        with pytest.raises(PolicyError) as caught:
            conceptguard.load_policy(text)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
