"""What a model does not know is said before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conceptguard import plugins
from conceptguard.errors import PolicyError
from conceptguard.making.known import LEAST, _moved
from conceptguard.plugins import host_for

QUICK: dict[str, Any] = {"steps": 1, "batch": 1, "trajectory_steps": 2, "templates": ["{}"], "progress": False}
UNKNOWN, KNOWN = ["zorblatt", "justice", "submarine"], ["beer", "pistol", "milk", "banana"]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_it_draws_is_far_from_what_it_does_not_know(pipe: Any) -> None:
    moved = _moved(host_for(pipe), [*UNKNOWN, *KNOWN])
    assert max(moved[word] for word in UNKNOWN) < LEAST < 1.5 * LEAST < min(moved[word] for word in KNOWN)


@pytest.mark.parametrize("method", ["esd", "spm"])
def test_a_training_goes_no_further_unless_told(pipe: Any, tmp_path: Path, method: str) -> None:
    make = plugins.method(method).make
    with pytest.raises(PolicyError, match="'zorblatt' this model predicts what it predicts for no prompt"):
        make(host_for(pipe), "zorblatt", tmp_path, **QUICK)
    assert not any(tmp_path.rglob("*.safetensors"))
    assert make(host_for(pipe), "zorblatt", tmp_path, anyway=True, **QUICK).size


def test_of_several_the_unknown_one_is_named_and_one_known_prompt_is_enough(pipe: Any, tmp_path: Path) -> None:
    make = plugins.method("esd").make
    with pytest.raises(PolicyError, match="for 'zorblatt' this"):
        make(host_for(pipe), ["beer", "zorblatt"], tmp_path, **QUICK)
    assert make(host_for(pipe), {"name": "weapons", "prompts": ["zorblatt", "pistol"]}, tmp_path, **QUICK).size


def test_what_shall_stay_and_is_not_known_is_said(pipe: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="does not know 'zorblatt', or draws it anyway: nothing there is held"):
        plugins.method("esd").make(host_for(pipe), "beer", tmp_path, preserve=["milk", "zorblatt"], **QUICK)
