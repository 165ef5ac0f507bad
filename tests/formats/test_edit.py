"""Edits of what layers read: kept without layers' weights, and worked out from those of the model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from random_artifacts import membrane, random_edit
from safetensors.torch import save_file
from tiny import tiny_sd, tiny_sdxl
from torch import nn

import conceptguard
from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats import detect_format, read_artifact, read_terms, write_edit
from conceptguard.formats.weights import asked, read_weights_of
from conceptguard.plugins import host_for
from conceptguard.registry.artifact import open_artifact
from conceptguard.registry.exporter import export_artifact
from conceptguard.registry.importer import import_artifact

NAMES = ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
         "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v")  # fmt: skip
DOOR = "unet.add_embedding.linear_1"
HOME = torch.device("cpu")
PLACES: dict[str, Any] = {
    "accelerate": lambda unet, folder: accelerate.cpu_offload(unet, execution_device=HOME),
    "on disk": lambda unet, folder: unet.enable_group_offload(
        onload_device=HOME, offload_device=HOME, offload_type="leaf_level", offload_to_disk_path=str(folder)
    ),
    "float8": lambda unet, folder: unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {**{name: torch.randn(8, 6, generator=random) for name in NAMES}, DOOR: torch.randn(8, 9, generator=random)}


def written() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    random = torch.Generator().manual_seed(1)
    down, shift, other, its = (torch.randn(2, n, generator=random) for n in (6, 6, 5, 5))
    return write_edit({"states": (down, shift, NAMES), "pooled": (other, its, [DOOR])})


def test_what_a_layer_makes_of_the_shift_is_worked_out(weights: dict[str, torch.Tensor]) -> None:
    """Of a door whose last inputs are something else, of the first ones alone; no file names any layer's numbers."""
    tensors, metadata = written()
    assert detect_format(tensors) == "edit" and len(tensors) == 4
    terms = read_terms(tensors, metadata, weights, base_weights=weights.__getitem__)
    assert set(terms) == set(weights)
    for name, (down, up, scale) in terms.items():
        stream, width = ("pooled", 5) if name == DOOR else ("states", 6)
        changed = torch.eye(width) + tensors[f"{stream}.edit.shift"].T @ tensors[f"{stream}.edit.down"]
        new = weights[name].clone()
        new[:, :width] = new[:, :width] @ changed
        torch.testing.assert_close(weights[name] + scale * up @ down, new, atol=1e-5, rtol=1e-5)


def test_files_that_say_too_little_are_refused(weights: dict[str, torch.Tensor]) -> None:
    tensors, metadata = written()
    with pytest.raises(ArtifactError, match="--model"):
        read_terms(tensors, metadata, weights)
    with pytest.raises(ArtifactError, match="does not say which layers"):
        read_terms(tensors, {}, weights, base_weights=weights.__getitem__)
    with pytest.raises(ArtifactError, match="has no place"):
        read_terms({**tensors, "more": torch.ones(1)}, metadata, weights, base_weights=weights.__getitem__)
    short = {**tensors, "states.edit.down": tensors["states.edit.down"][:1]}
    with pytest.raises(ArtifactError, match="two matrices of one shape"):
        read_terms(short, metadata, weights, base_weights=weights.__getitem__)
    with pytest.raises(BaseMismatch, match="reads 6 numbers"):
        read_terms(tensors, metadata, weights, base_weights=lambda name: torch.ones(8, 4))
    encoder = {"text_encoder.layers.0.fc1": torch.ones(8, 6)}
    with pytest.raises(ArtifactError, match="no encoding of a text"):
        read_terms(*write_edit({"states": (*list(tensors.values())[:2], encoder)}), encoder, base_weights=encoder.get)
    with pytest.raises(BaseMismatch):
        read_terms(tensors, metadata, {"unet.other": torch.ones(8, 6)}, base_weights=weights.__getitem__)


class Quantised(nn.Module):
    """As libraries have it: integers and scales, and a forward that knows what they mean."""

    def __init__(self, of: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = of.in_features, of.out_features, of.bias
        self.scale = of.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((of.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.float() * self.scale, self.bias)


def test_a_quantised_layer_is_asked_for_its_weight() -> None:
    torch.manual_seed(0)
    layer = Quantised(nn.Linear(40, 12))
    found = read_weights_of({"a": layer})("a")
    torch.testing.assert_close(found, layer.weight.float() * layer.scale, atol=1e-6, rtol=0)


@pytest.mark.parametrize("place", PLACES)
def test_weights_that_are_elsewhere_are_read(place: str, tokenizer: Any, tmp_path: Path) -> None:
    pipe = tiny_sd(tokenizer)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    own = layer.weight.detach().clone()
    PLACES[place](pipe.unet, tmp_path)
    found = host_for(pipe).weights()(NAMES[0])
    expected = own.to(torch.float8_e4m3fn).float() if place == "float8" else own
    torch.testing.assert_close(found.float(), expected, atol=1e-6, rtol=0)


def test_a_layer_is_asked_without_the_terms_of_a_guard(tokenizer: Any, tmp_path: Path) -> None:
    pipe = tiny_sd(tokenizer)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    with conceptguard.attach(pipe, {"guards": [membrane(tmp_path, pipe)]}) as session:
        session.banks.set("unet", torch.ones(1, 1))
        torch.testing.assert_close(asked(layer), layer.weight.detach(), atol=1e-6, rtol=0)
        x = torch.ones(1, 3, layer.in_features)
        assert not torch.allclose(layer(x), nn.functional.linear(x, layer.weight), atol=1e-4)


def test_imported_and_exported(tokenizer: Any, tmp_path: Path) -> None:
    """As kohya's LoRA it is the same edit, from the weights of a folder; another base is refused before it is read."""
    pipe = tiny_sdxl(tokenizer)
    pipe.save_pretrained(tmp_path / "model")
    random_edit(tmp_path / "edit", pipe)
    made = open_artifact(tmp_path / "edit")
    host = host_for(pipe)
    own = read_artifact(made, host.layers(), base_weights=host.weights())
    file = made.folder / made.weights()[0]
    artifact = import_artifact(file, "uce", tmp_path / "r", base="t", concept="cigarette", model=tmp_path / "model")
    assert export_artifact(artifact, "kohya", tmp_path / "k.safetensors", model=tmp_path / "model") == "converted"
    (tmp_path / "k").mkdir()
    (tmp_path / "k.safetensors").rename(tmp_path / "k" / "x.safetensors")
    from conceptguard.registry.importer import open_published

    again = read_artifact(open_published(tmp_path / "k" / "x.safetensors"), host.layers())
    assert set(again) == set(own) and DOOR in own
    for name, (down, up, scale) in own.items():
        theirs = again[name].scale * again[name].up @ again[name].down
        torch.testing.assert_close(scale * up @ down, theirs, atol=1e-5, rtol=1e-4)
    with pytest.raises(ArtifactError, match="--model"):
        export_artifact(artifact, "kohya", tmp_path / "n.safetensors")
    tensors, metadata = made.tensors(), made.metadata()
    wide = {key: torch.nn.functional.pad(t, (0, 999)) for key, t in tensors.items()}
    save_file(wide, tmp_path / "wide.safetensors", metadata=dict(metadata))
    with pytest.raises(BaseMismatch, match="another base"):
        import_artifact(
            tmp_path / "wide.safetensors", "uce", tmp_path / "r", base="t", concept="x", model=tmp_path / "model"
        )
