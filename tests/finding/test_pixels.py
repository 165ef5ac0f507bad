"""Metrics of concepts where the truth is known: each is one at its best, by chance at chance, and can be nothing."""

from __future__ import annotations

import pytest
import torch

from conceptguard.finding.pixels import agreement, existence, location, looked, strongest

MASKS = torch.zeros(4, 32, 32, dtype=torch.bool)
MASKS[:3, 8:16, 16:24] = True


def small(masks: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), 16)[:, 0]


def test_where_maps_lie() -> None:
    known = looked(small(MASKS), MASKS)
    assert known.inside == known.pointing == 1.0 and known.by_chance == pytest.approx(1 / 16)
    even = looked(torch.ones(4, 16, 16), MASKS)
    assert even.inside == pytest.approx(even.by_chance) and even.pointing == 0.0
    assert looked(small(MASKS).flip(2), MASKS).inside == 0.0
    assert looked(-small(MASKS), MASKS).inside == 0.0, "what speaks against it lies nowhere"
    with pytest.raises(ValueError, match="no picture has a place"):
        looked(small(MASKS), torch.zeros_like(MASKS))


def test_what_is_there_and_where() -> None:
    truths = torch.tensor([[True, False], [True, False], [True, False], [False, True]])
    top = strongest(truths.float(), torch.ones(2), 1)
    assert top[:, 0].tolist() == [0, 0, 0, 1] and existence(top, truths) == 1.0
    assert existence(1 - top, truths) == 0.0
    other = MASKS.flip(0)
    there = [MASKS & truths[:, :1, None], other & truths[:, 1:, None]]
    assert location(top, [small(one) for one in there], there) == 1.0
    assert location(top, [small(one).flip(1) for one in there], there) == 0.0
    weighed = strongest(torch.ones(1, 2), torch.tensor([0.2, 0.8]), 1)
    assert weighed.tolist() == [[1]], "by importance where scores are the same"


def test_how_much() -> None:
    truth = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    assert agreement(truth * 3 + 1, truth) == pytest.approx(1)
    assert agreement(1 - truth, truth) == pytest.approx(-1)
    assert agreement(torch.ones(2, 3), truth) == 0.0
