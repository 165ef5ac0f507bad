"""KLOM: known distributions, the largest margin, and its error."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from conceptguard.measuring.classifier.klom import EMPTY, klom, klom_over


def test_of_known_histograms() -> None:
    """Two bins: one side is half in each, the other three quarters; and the greatest margin is counted."""
    own = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    other = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    p, q = [0.5, 0.5], [0.75, 0.25]
    by_hand = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert float(klom(own, other, bins=2)) == pytest.approx(by_hand, abs=1e-4)
    assert float(klom(own, own, bins=2)) == 0.0
    apart = math.log((1 + EMPTY) / EMPTY)  # nothing in common
    assert float(klom(torch.zeros(3, 1), torch.ones(3, 1))) == pytest.approx(apart, rel=1e-3)


def test_what_is_the_same_is_near_nothing_and_what_is_apart_is_not() -> None:
    """Of the same distribution, twenty models have less than of one that is apart, and more models less still."""
    random = torch.Generator().manual_seed(0)
    own, same = torch.randn(2, 20, 200, generator=random)
    many, again = torch.randn(2, 400, 200, generator=random)
    near, apart = klom_over(own, same), klom_over(own + 3, same)
    assert near.mean + 5 * near.error < apart.mean and near.mean <= near.p95
    assert float(klom(many, again).mean()) < near.mean / 5, "what is left is of few models"


def test_the_error_is_how_much_other_models_change_it() -> None:
    """Beside the spread over other draws of models that lie apart: of the same size, within a factor of two."""
    random = torch.Generator().manual_seed(1)

    def models(shift: float) -> torch.Tensor:
        """Each is a little above or below the rest on all examples, as models are."""
        return torch.randn(20, 60, generator=random) + 0.5 * torch.randn(20, 1, generator=random) + shift

    found = [klom_over(models(1.0), models(0.0)) for _ in range(16)]
    spread = float(torch.tensor([one.mean for one in found]).std())
    told = sum(one.error for one in found) / len(found)
    assert spread / 2 < told < spread * 2


def test_margins_beyond_the_clip_and_what_is_no_number() -> None:
    assert float(klom(torch.full((2, 1), 300.0), torch.full((2, 1), 200.0))) == 0.0
    with pytest.raises(ValueError, match="no number"):
        klom(torch.tensor([[1.0], [math.nan]]), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="two models or more"):
        klom(torch.zeros(1, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="three models or more"):
        klom_over(torch.zeros(2, 4), torch.zeros(3, 4))


def test_the_tool_tells_models_as_they_are_from_retrained_ones(tmp_path: Path) -> None:
    """Four perceptrons on either side, hardly trained; a method's models are not those that they were."""
    from tools.klom import Sides, rows

    found = {row["method"]: row for row in rows(Sides("skull", 4, tmp_path, epochs=4), ["damp"])}
    assert list(found) == ["retrained", "none", "relabel", "damp"]
    assert found["retrained"]["forget_klom"] < found["none"]["forget_klom"] - found["none"]["forget_error"]
    assert found["damp"]["forget_klom"] != found["none"]["forget_klom"]
    assert abs(found["retrained"]["retain_klom"] - found["none"]["retain_klom"]) < 2, "of what all of them saw"
