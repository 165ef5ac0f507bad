"""The loop of everything that is trained: taken up to the bit, ended early, and stopped at what is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.making.loop import Gradients, Loop, without_conflict
from conceptguard.making.snapshot import Snapshot


class Fit:
    """A weight that learns a linear map from noise of its own, and a memory that its loss changes in place."""

    def __init__(self, folder: Path, steps: int = 20, lr: float = 0.05):
        self.weight, self.memory = torch.zeros(3, 3, requires_grad=True), torch.zeros(3)
        self.random, self.seen = torch.Generator().manual_seed(1), 0
        self.wanted = torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
        self.said: list[tuple[int, float]] = []
        self.loop = Loop(
            "a fit", [self.weight], torch.optim.Adam([self.weight], lr=lr), self.random, steps,
            Snapshot(folder / "snapshot", {"steps": steps}), 4, [self.memory],
            lambda step: lr / (1 + step), [lambda step, value: self.said.append((step, value))],
        )  # fmt: skip

    def loss(self, step: int) -> Tensor:
        x = torch.randn(5, 3, generator=self.random)
        self.memory += x.mean(0)
        return (x @ (self.weight - self.wanted)).pow(2).mean() + self.memory.pow(2).sum()


def test_a_training_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = Fit(tmp_path / "whole")
    assert whole.loop.run(whole.loss)[:2] == (0, 20)
    for at in (3, 4, 11):
        fit = Fit(tmp_path / str(at))

        def torn(step: int, fit: Fit = fit, at: int = at) -> Tensor:
            if step == at:
                raise KeyboardInterrupt
            return fit.loss(step)

        with pytest.raises(KeyboardInterrupt):
            fit.loop.run(torn)
        again = Fit(tmp_path / str(at))
        assert again.loop.run(again.loss).first == at - at % 4
        assert torch.equal(again.weight, whole.weight) and torch.equal(again.memory, whole.memory)
        assert again.said == whole.said[at - at % 4 :]


def test_a_loss_that_is_no_number_stops_it_and_the_last_good_state_stays(tmp_path: Path) -> None:
    fit = Fit(tmp_path)
    with pytest.raises(ArtifactError, match=r"a fit: loss nan at step 6: lower lr \(now 0\.00714"):
        fit.loop.run(lambda step: fit.loss(step) * (float("nan") if step == 6 else 1))
    again = Fit(tmp_path)
    assert again.loop.run(again.loss).first == 4


def test_what_is_read_after_a_step_is_reported_and_can_be_enough(tmp_path: Path) -> None:
    fit = Fit(tmp_path)
    ended = fit.loop.run(fit.loss, gauge=lambda: float(len(fit.said)), enough=lambda value: value >= 7)
    assert (ended.taken, ended.value) == (8, 7.0)
    assert fit.said == [(n, float(n)) for n in range(8)]
    with pytest.raises(ArtifactError, match="loss inf at step 0"):
        Fit(tmp_path / "other").loop.run(fit.loss, gauge=lambda: float("inf"))


def test_losses_that_make_one_step_together(tmp_path: Path) -> None:
    """Four of them learn what their mean learns, each asked for once; what is reported is the mean."""
    apart, mean = (torch.zeros(3, requires_grad=True) for _ in range(2))
    goals, asked = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), []

    def loop(weight: Tensor, **more: Any) -> Loop:
        return Loop("sums", [weight], torch.optim.Adam([weight], lr=0.1), torch.Generator(), 2, **more)

    def one(number: int) -> Tensor:
        asked.append(number)
        return (apart - goals[number]).pow(2).sum()

    ended = loop(apart, accumulate=4).run(one)
    wanted = loop(mean).run(lambda step: (mean - goals[4 * step : 4 * step + 4]).pow(2).sum(1).mean())
    assert asked == list(range(8)) and ended.value == pytest.approx(wanted.value)
    assert torch.allclose(apart, mean, atol=1e-6) and apart.abs().sum() > 0


def test_gradients_that_are_given_and_masked(tmp_path: Path) -> None:
    weight, mask = torch.zeros(3, requires_grad=True), torch.tensor([1.0, 0.0, 1.0])
    loop = Loop("given", [weight], torch.optim.SGD([weight], lr=1.0), torch.Generator(), 1, masks=[mask])
    assert loop.run(lambda step: Gradients(0.25, [torch.tensor([1.0, 2.0, 3.0])])).value == 0.25
    assert weight.tolist() == [-1.0, 0.0, -3.0]


def test_what_goes_against_another_loss_is_projected_away() -> None:
    """Over all parameters together; gradients that agree are left as they are."""
    own, held = [torch.tensor([1.0, -2.0]), torch.tensor([0.5])], [torch.tensor([1.0, 1.0]), torch.tensor([-2.0])]
    found = without_conflict(own, held)
    assert float(sum((a * b).sum() for a, b in zip(found, held))) == pytest.approx(0.0, abs=1e-6)
    rest = torch.cat(own) - torch.cat(found)
    assert torch.cosine_similarity(rest, -torch.cat(held), dim=0) == pytest.approx(1.0)
    agree = [torch.tensor([1.0, 0.0]), torch.tensor([-1.0])]
    assert all(torch.equal(a, b) for a, b in zip(without_conflict(agree, held), agree))
    assert all(torch.equal(a, b) for a, b in zip(without_conflict(own, [0 * b for b in held]), own))
