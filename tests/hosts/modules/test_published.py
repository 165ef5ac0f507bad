"""Classifiers of torchvision and timm under a policy, where these are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conceptguard import attach, host_for
from conceptguard.plugins import method


def _torchvision() -> Any:
    return pytest.importorskip("torchvision").models.resnet18(num_classes=4)


def _timm() -> Any:
    return pytest.importorskip("timm").create_model("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=2)


@pytest.mark.parametrize("load", [_torchvision, _timm])
def test_they_forget_a_class_and_are_again_what_they_were(load: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = load().eval().requires_grad_(False)
    inputs, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 4
    data = tmp_path / "examples.safetensors"
    save_file({"inputs": inputs, "labels": labels}, data)
    two = {"name": "two", "prompts": ["2"]}
    made = method("damp").make(host_for(net), two, tmp_path, progress=False, data=str(data))
    before = net(inputs)
    with attach(net, {"name": "no twos", "guards": [{"method": "damp", "artifact": str(made.folder)}]}) as guard:
        assert not torch.equal(net(inputs), before) and guard.receipt.acts[0].layers > 0
    assert torch.equal(net(inputs), before)
