"""A small probe that is quick to train and easy to check: whether a picture is red."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from conceptguard_plugins.pictures.probe.net import ProbeNet, train

from conceptguard.registry import write_artifact


@cache
def _trained() -> dict[str, Any]:
    """What is written of it."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(96, 3, 64, 64, generator=random) * 0.3
    shade = 0.6 + 0.4 * torch.rand(96, 1, 1, 1, generator=random)
    red = noise * torch.tensor([1.0, 0.3, 0.3]).view(3, 1, 1) + shade * torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    other = torch.cat([noise[:32] + shade[:32] * torch.eye(3)[i].view(3, 1, 1) for i in (1, 2)] + [noise[:32] + 0.7])
    torch.manual_seed(0)
    net = ProbeNet()
    train(net, red.clamp(0, 1), other.clamp(0, 1), 60, 4e-3, random, lambda step, loss: None)
    fields = {
        "method": "probe", "name": "red", "concept": {"name": "red", "prompts": ["red"]},
        "base": {"family": "emoji-sd"}, "made": {"size": net.size, "threshold": 0.5},
    }  # fmt: skip
    return {"manifest_fields": fields, "tensors": net.state_dict()}


def red_probe(registry: Path) -> str:
    """Write one, trained once, into a registry folder; its reference."""
    write_artifact(registry / "emoji-sd" / "probe" / "red", **_trained())
    return "emoji-sd/probe/red"
