"""A model that is a change of another one: what it draws, and folders that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_registry.build import siblings

import conceptguard
from conceptguard.errors import RegistryError

CONV, QUERY = "unet.conv_in.weight", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def base(tiny: Any, tmp_path: Path) -> Path:
    """The tiny pipeline in diffusers' format."""
    tiny.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_the_change_is_added_and_the_schedule_taken(tiny: Any, base: Path, tmp_path: Path) -> None:
    before = tiny.unet.state_dict()
    conv, query, bias = (before[name.removeprefix("unet.")] for name in (CONV, QUERY, "unet.conv_out.bias"))
    down, up = torch.randn(2, conv[0].numel()), torch.randn(len(conv), 2)
    whole = {QUERY: torch.ones_like(query), "unet.conv_out.bias": torch.full_like(bias, 0.5)}
    siblings.write_sibling(tmp_path / "mine", str(base), {CONV: (down, up), **whole}, {"timestep_spacing": "trailing"})
    pipe = conceptguard.load_model(str(tmp_path / "mine"))
    after = pipe.unet.state_dict()
    torch.testing.assert_close(after["conv_in.weight"], conv + (up @ down).view(conv.shape), atol=1e-2, rtol=1e-2)
    assert torch.equal(after["conv_out.bias"], bias + 0.5)
    assert torch.equal(after[QUERY.removeprefix("unet.")], query + 1)
    assert torch.equal(after["conv_in.bias"], before["conv_in.bias"])
    assert pipe.name == "mine" and pipe.scheduler.config.timestep_spacing == "trailing"
    half = conceptguard.load_model(str(tmp_path / "mine"), torch_dtype=torch.float16)
    assert half.unet.dtype == torch.float16


def test_what_is_no_sibling_is_told(base: Path, tmp_path: Path) -> None:
    for number, name in enumerate(["unet.no_such.weight", QUERY, "scheduler.x"]):
        folder = tmp_path / f"odd-{number}"
        siblings.write_sibling(folder, str(base), {name: torch.zeros(3)}, {})
        with pytest.raises(RegistryError, match="no change of"):
            conceptguard.load_model(str(folder))
    (tmp_path / "odd-0" / "sibling.json").write_text(json.dumps({"base": str(tmp_path / "odd-0")}))
    with pytest.raises(RegistryError, match="which is a change itself"):
        conceptguard.load_model(str(tmp_path / "odd-0"))
    (tmp_path / "odd-0" / "sibling.json").write_text("[]")
    with pytest.raises(RegistryError, match="names no base"):
        conceptguard.load_model(str(tmp_path / "odd-0"))
    (tmp_path / "odd-1" / "delta.safetensors").write_bytes(b"cut")
    with pytest.raises(RegistryError, match="no change of"):
        conceptguard.load_model(str(tmp_path / "odd-1"))
