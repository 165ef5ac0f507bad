"""A model that is a change of another one: what it draws, and folders that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import conceptguard
from conceptguard.errors import RegistryError
from conceptguard.formats import to_kohya
from conceptguard.runtime.lowrank import Factors

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def base(tiny: Any, tmp_path: Path) -> Path:
    """The tiny pipeline in diffusers' format."""
    tiny.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def sibling(tiny: Any, base: Path, tmp_path: Path) -> Path:
    """It with another query and another schedule."""
    out, into = tiny.unet.get_submodule(QUERY).weight.shape
    tensors, metadata = to_kohya({f"unet.{QUERY}": Factors(torch.ones(1, into), torch.ones(out, 1))})
    folder = tmp_path / "mine"
    folder.mkdir()
    save_file(tensors, folder / "change.safetensors", metadata)
    said = {"base": str(base), "scheduler": {"timestep_spacing": "trailing"}}
    (folder / "sibling.json").write_text(json.dumps(said))
    return folder


def test_the_change_is_added_and_the_schedule_taken(tiny: Any, sibling: Path) -> None:
    pipe, before = conceptguard.load_model(str(sibling)), tiny.unet.state_dict()
    for name, weight in pipe.unet.state_dict().items():
        torch.testing.assert_close(weight, before[name] + (name == f"{QUERY}.weight"), atol=1e-3, rtol=1e-3)
    assert pipe.name == "mine" and pipe.scheduler.config.timestep_spacing == "trailing"
    half = conceptguard.load_model(str(sibling), torch_dtype=torch.float16)
    assert half.unet.dtype == torch.float16


def test_what_is_no_sibling_is_told(sibling: Path) -> None:
    mark, file = sibling / "sibling.json", sibling / "change.safetensors"
    save_file({"lora_unet_none_of_ours.lora_up.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(RegistryError, match="no change of"):
        conceptguard.load_model(str(sibling))
    file.write_bytes(b"cut")
    with pytest.raises(RegistryError, match="no change of"):
        conceptguard.load_model(str(sibling))
    for said, told in {
        json.dumps({"base": str(sibling)}): "a change itself",
        "[]": "no",
        "{": "not name a base",
    }.items():
        mark.write_text(said)
        with pytest.raises(RegistryError, match=told):
            conceptguard.load_model(str(sibling))
