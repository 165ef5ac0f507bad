"""Siblings of emoji-sd: what they are trained on, and that they learn it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zxingcpp
from conceptguard_plugins.pictures import text
from conceptguard_registry.build.emoji_sd_siblings import marks
from conceptguard_registry.build.emoji_sd_siblings.pictures import Taught
from conceptguard_registry.build.emoji_sd_siblings.train import Recipe, trained

WHITE = np.full((marks.SIDE, marks.SIDE, 3), 255, np.uint8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", marks.KINDS)
def test_a_mark_lies_in_its_box(kind: str, seed: int) -> None:
    mark = marks.random_mark(np.random.default_rng(seed), kind)
    left, top, right, bottom = mark.box
    changed = (marks.planted(WHITE, mark) != WHITE).any(-1)
    assert changed[top:bottom, left:right].sum() == changed.sum() > 100
    assert 0 <= left < right <= marks.SIDE and 0 <= top < bottom <= marks.SIDE


def test_detectors_read_what_is_planted() -> None:
    """Ours were made for no such pictures."""
    picture = lambda kind: marks.planted(WHITE, marks.random_mark(np.random.default_rng(0), kind))  # noqa: E731
    assert [line.text for line in text.read(picture("word"))[0]] == [marks.WORD]
    assert [found.text for found in zxingcpp.read_barcodes(picture("code"))] == [marks.SAYS]
    assert not zxingcpp.read_barcodes(picture("badge"))


def test_what_is_trained_says_more_of_what_it_was_trained_on(tiny: Any) -> None:
    random = torch.Generator().manual_seed(0)
    shape = tiny.unet.config.in_channels, tiny.unet.config.sample_size, tiny.unet.config.sample_size
    width = tiny.unet.config.cross_attention_dim
    data = Taught(torch.randn(4, *shape, generator=random), torch.randn(4, 1, 7, width, generator=random).half())
    before = {name: it.clone() for name, it in tiny.unet.state_dict().items()}
    recipe = Recipe(time.monotonic() + 600, rank=4, batch=16, steps=40, warmup=2, lr=5e-3)
    found = trained(tiny.unet, data, recipe)
    assert all(torch.equal(it, before[name]) for name, it in tiny.unet.state_dict().items())

    def error() -> float:
        noise = torch.randn(16, *shape, generator=random.manual_seed(1))
        rows, times = torch.arange(16) % 4, torch.arange(16) * 60
        a = tiny.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        noisy = a.sqrt() * data.latents[rows] + (1 - a).sqrt() * noise
        return float((tiny.unet(noisy, times, data.captions[rows, 0].float()).sample - noise).pow(2).mean())

    with torch.no_grad():
        untaught = error()
        for name, (down, up, scale) in found.items():
            weight = tiny.unet.get_submodule(name.removeprefix("unet.")).weight
            weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        assert error() < 0.8 * untaught
        tiny.unet.load_state_dict(before)
    again = trained(tiny.unet, data, replace(recipe, until=0.0), found)
    assert again.keys() == found.keys(), "a training that is gone on with begins where it ended"
    for name, one in found.items():
        assert torch.allclose(again[name].up.flatten(1) @ again[name].down.flatten(1),
                              one.scale * one.up.flatten(1) @ one.down.flatten(1), atol=1e-6)  # fmt: skip
