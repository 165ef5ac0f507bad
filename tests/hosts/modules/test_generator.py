"""A GAN's generator as a model of a folder, and what the embedded one is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conceptguard_registry.build.emoji_gan.tiles import TILE, VIEW, views
from safetensors.torch import save_file

from conceptguard import RegistryError, host_for, load_model
from conceptguard.hosts.modules.generator import Generator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(Generator(3, 2).half().state_dict(), tmp_path / "model.safetensors")
    said = {"generator": {"latents": 7}, "objects": ["skull", "cat", "owl"], "styles": ["noto", "mono"]}
    (tmp_path / "generator.json").write_text(json.dumps(said))
    return tmp_path


@torch.no_grad()
def test_a_folder_is_a_module_that_draws(folder: Path) -> None:
    net = load_model(str(folder))
    assert net.object_names == ["skull", "cat", "owl"] and not net.training
    assert host_for(net).generates == "tensors"
    latents, objects, styles = net.asked([2, 0], 2, torch.Generator().manual_seed(1))
    assert objects.tolist() == [2, 2, 2, 2, 0, 0, 0, 0] and styles.tolist() == [0, 1] * 4
    pictures = net(latents, objects, styles)
    assert pictures.shape == (8, 3, 64, 64) and float(pictures.min()) >= 0 and float(pictures.max()) <= 1
    assert torch.allclose(pictures[3], net.drawn(net.mapped(latents, objects, styles)[3:4])[0], atol=1e-5)
    with pytest.raises(RegistryError, match="no net 'vit'"):
        load_model(str(folder), variant="vit")
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(RegistryError, match="not the weights of this net"):
        load_model(str(folder))


def test_latents_say_how_a_tile_is_seen() -> None:
    tile = torch.ones(1, 3, TILE, TILE)
    tile[:, :, TILE // 2 - 8 : TILE // 2 + 8, TILE // 2 - 8 : TILE // 2 + 8] = 0

    def place(**said: float) -> torch.Tensor:
        latents = torch.zeros(1, VIEW)
        latents[0, 4:] = 9.0  # the whitest ground
        for number, value in said.items():
            latents[0, int(number[1:])] = value
        ink = 1 - views(tile, latents)[0].mean(0)
        ways = torch.arange(len(ink)).float()
        return torch.stack([(ink.sum(0) * ways).sum(), (ink.sum(1) * ways).sum()]) / ink.sum()

    assert place()[0] == pytest.approx(31.5, abs=0.1)
    assert float(place(_0=2.0)[0]) < 31 and place(_0=2.0)[1] == pytest.approx(31.5, abs=0.1)
    assert float(place(_1=-2.0)[1]) > 32
    latents = torch.zeros(2, VIEW)
    latents[1, 4] = -3.0
    pale = views(torch.ones(2, 3, TILE, TILE), latents)
    assert torch.allclose(pale[0], torch.full((3, 64, 64), 0.9)) and float(pale[1, 0].mean()) < 0.81
