"""What terms left of guidance, and what moved beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no package of anybody's environment

from tools.drift import STEPS, Said, moved


def test_shares_of_guidance() -> None:
    """Turned around behind the structure, while the empty prompt moves half as far as guidance went."""
    towards, zero = torch.randn(STEPS, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(())
    before = Said(towards, zero.expand_as(towards), -towards)
    assert moved(before, before) == {"left_first": 1, "left": 1, "nothing": 0, "others": 0}
    now = towards.clone()
    now[1:] *= -1
    after = Said(now + 0.5 * towards, 0.5 * towards, -towards)
    assert moved(before, after) == {"left_first": 1, "left": -1, "nothing": 0.5, "others": 0}
