"""A step of a training beside the authors' way: both ask for the same, and the row says what each took."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conceptguard_plugins.diffusion.esd import goal

from conceptguard.benchmarks import training
from conceptguard.cli import run


def test_the_losses_are_those_of_the_methods() -> None:
    """ESD's is the maker's; of SPM's anchors each counts as often as the empty prompt, as the authors' code has it."""
    said = {text: torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(i)) for i, text in enumerate("abc")}
    embeds: dict[str, Any] = {"": said["a"], "dog": said["b"], "cat": said["c"]}
    states: list[bool] = []

    def frozen(asked: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return torch.cat(asked)

    def trained(asked: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return 0.5 * torch.cat(asked)

    own = F.mse_loss(0.5 * said["b"], goal(said["b"], said["a"], 1.0))
    torch.testing.assert_close(training.esd_loss(frozen, trained, states.append, embeds), own)
    held = F.mse_loss(0.5 * torch.cat([said["a"], said["c"]]), torch.cat([said["a"], said["c"]]))
    theirs = training.spm_loss(frozen, trained, states.append, embeds)
    torch.testing.assert_close(theirs, own + training.ANCHORED * held)
    assert states == [False, True]


@pytest.mark.slow
def test_a_step_takes_two_fifths_of_the_authors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "train", "--steps", "3", "--json", "-"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in told["rows"]] == ["esd", "spm"]
    assert all(0 < row["ratio_peer"] < 0.4 for row in told["rows"])


def test_bad_input_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "train", "--method", "uce"]) != 0
    assert "there is a peer for esd and spm" in capsys.readouterr().err
    assert run(["bench", "train", "--size", "sd2"]) != 0
