"""What all trainings of layers share: steps of many states, and activations of large models that are not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.esd import ESD

from conceptguard.formats import read_artifact
from conceptguard.hosts.diffusers import denoiser
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"]}
QUICK: dict[str, Any] = {"steps": 3, "batch": 2, "trajectory_steps": 3, "templates": ["{}"], "preserve": ["milk"]}

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, out: Path, **options: Any) -> Artifact:
    return ESD.make(host_for(pipe), BEER, out, **{**QUICK, "progress": False, **options})


def kept_and_learnt(pipe: Any, out: Path, **options: Any) -> tuple[int, dict[str, torch.Tensor]]:
    """Bytes that were kept for gradients, and every change that was learnt."""
    bytes_kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal bytes_kept
        bytes_kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = make(pipe, out, **options)
    terms = read_artifact(made, host_for(pipe).layers())
    return bytes_kept, {name: scale * up @ down for name, (down, up, scale) in terms.items()}


def test_a_large_model_keeps_no_activations_and_learns_the_same(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, learnt = kept_and_learnt(pipe, tmp_path / "kept")
    monkeypatch.setattr(denoiser, "LARGE", 0)
    less, again = kept_and_learnt(pipe, tmp_path / "again")
    assert less < 0.5 * kept and not pipe.unet.is_gradient_checkpointing
    assert all(torch.allclose(again[name], change, atol=1e-6) for name, change in learnt.items())


def test_accumulated_batches_see_other_states(pipe: Any, tmp_path: Path) -> None:
    kept, learnt = kept_and_learnt(pipe, tmp_path / "one")
    twice, more = kept_and_learnt(pipe, tmp_path / "two", accumulate=2)
    assert twice == pytest.approx(2 * kept, rel=0.01)
    assert any(not torch.equal(change, more[name]) for name, change in learnt.items())
