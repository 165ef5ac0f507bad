"""Models as people have them: folders with variants, checkpoints in one file, and names that are nearly right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from safetensors.torch import save_file
from single_file import checkpoint
from tiny import generate

import conceptguard
from conceptguard.errors import RegistryError


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    """The tiny pipeline in diffusers' format."""
    tiny.save_pretrained(tmp_path / "my-sd")
    return tmp_path / "my-sd"


def draw(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return torch.as_tensor(generate(pipe, "a dog", num_inference_steps=2))


def test_a_checkpoint_in_one_file_draws_what_the_folder_draws(tiny: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(checkpoint(tiny), file)
    pipe = conceptguard.load_model(str(file), config=str(folder))
    assert type(pipe) is type(tiny) and pipe.name == "mine"
    assert torch.allclose(draw(pipe), draw(tiny), atol=1e-5)
    with conceptguard.attach(pipe, "{guards: [{method: sld, concept: {name: dog, prompts: [dog]}}]}") as guard:
        draw(pipe)
        assert guard.receipt.opened
    with pytest.raises(RegistryError, match=r"no model_index\.json there"):
        conceptguard.load_model(str(file), config=str(tmp_path))


def test_a_checkpoint_of_another_size_names_the_config(tiny: Any, folder: Path, tmp_path: Path) -> None:
    tensors = checkpoint(tiny)
    for name in [name for name in tensors if "middle_block" in name]:
        tensors[name] = torch.zeros(3, *tensors[name].shape)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(RegistryError, match=r"cannot load checkpoint '.*odd.safetensors' as a StableDiffusionPipeline"):
        conceptguard.load_model(str(tmp_path / "odd.safetensors"), config=str(folder))


def test_variants(tiny: Any, tmp_path: Path) -> None:
    half = tmp_path / "half"
    tiny.save_pretrained(half, variant="fp16")
    drawn = draw(conceptguard.load_model(str(half), variant="fp16"))
    assert torch.equal(drawn, draw(tiny))
    with pytest.raises(RegistryError, match="has no plain weight files: give --variant fp16"):
        conceptguard.load_model(str(half))
    with pytest.raises(RegistryError, match="no files of variant 'bf16': give --variant fp16"):
        conceptguard.load_model(str(half), variant="bf16")


def test_what_is_nearly_right_is_named(folder: Path, tmp_path: Path) -> None:
    lora = next((ROOT / "registry/emoji-sd/spm/beer").glob("*.safetensors"))
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02")
    shutil.copy(lora, tmp_path / "beer.safetensors")
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "part.safetensors")
    wrong = {
        tmp_path / "my-ds": r"did you mean '.*my-sd'\?",
        tmp_path / "my-sd.safetensors": r"no such file or folder",
        tmp_path: r"neither model_index.json .* did you mean '.*my-sd'\?",
        tmp_path / "old.ckpt": "a pickle",
        tmp_path / "beer.safetensors": "conceptguard import .* --as lora",
        tmp_path / "part.safetensors": "no whole model",
        "emoji-ds": "did you mean 'emoji-sd'",
        "~/no-such-model-here": "no such file or folder",
    }
    for name, told in wrong.items():
        with pytest.raises(RegistryError, match=told) as caught:
            conceptguard.load_model(str(name))
        assert "\n" not in str(caught.value)
