"""What is measured against is the recipe of then: other steps from the same start; a ratio of seconds is earned."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptguard_registry.build.emoji_sd import before, vae
from conceptguard_registry.build.emoji_sd.pace import Part, compare


def trained(then: bool, steps: int, _: Path) -> tuple[float, float]:
    """A part that learns three times as much from a step as then, in half as long again."""
    return (float(steps), float(steps)) if then else (3.0 * steps, 1.5 * steps)


def test_the_ratio_is_of_the_fewest_pictures_that_come_out_as_good() -> None:
    found = compare(Part("a part", "steps", partial(trained, True), partial(trained, False), 100, (32, 32)))
    assert [one["steps"] for one in found["tried"]] == [70, 60, 50, 40, 30]
    assert found["tried"][-1]["quality"] < found["before"]["quality"]
    assert found["ratio"] == pytest.approx(1.5 * 40 / 100)


def test_shares_are_of_pictures_where_a_step_has_more_of_them_now() -> None:
    found = compare(Part("a part", "steps", partial(trained, True), partial(trained, False), 100, (32, 64)))
    assert found["before"]["pictures"] == 3200
    assert [(one["steps"], one["pictures"]) for one in found["tried"]][:2] == [(35, 2240), (30, 1920)]


def test_a_part_that_is_never_as_good_has_no_ratio() -> None:
    found = compare(Part("a part", "steps", partial(trained, True), partial(trained, True), 100, (32, 32)))
    assert len(found["tried"]) == 1
    assert found["ratio"] is None


def test_the_autoencoder_of_then_takes_other_steps_and_leaves_today_s_as_it_was(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    recipe = vae.VaeRecipe(steps=1, batch=1, warmup=1, compile=False, ema=0.0)

    def weights(name: str) -> torch.Tensor:
        (tmp_path / name).mkdir()
        return torch.cat([p.detach().flatten() for p in vae.train_vae(images, recipe, tmp_path / name).parameters()])

    torch.manual_seed(0)
    now = weights("now")
    with before.autoencoder():
        then = weights("then")
    assert not torch.equal(then, now)
    assert torch.equal(weights("again"), now)


def test_the_rate_of_one_cycle_rises_for_a_tenth_of_the_steps() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimiser, rates = before.OneCycle([weight], steps=100), []
    for _ in range(100):
        weight.grad = torch.ones(2, 2)
        rates.append(optimiser.optim.param_groups[0]["lr"])
        optimiser.step(1.0)
    assert max(rates) == pytest.approx(3e-3)
    assert rates.index(max(rates)) in (8, 9, 10)
