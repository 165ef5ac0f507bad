"""Co-Erasing: pictures beside words while layers learn, and a model that is as before when they have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.co_erasing import CoErasing, refined
from conceptguard_plugins.diffusion.esd import ESD
from conceptguard_registry.build.emoji_adapter import solved
from conceptguard_registry.build.emoji_adapter.measure import shares
from conceptguard_registry.build.emoji_adapter.reader import Projection
from conceptguard_registry.build.emoji_adapter.wanted import States
from diffusers.models.embeddings import ImageProjection
from paths import ROOT
from safetensors.torch import load_file, save_file
from tiny import generate
from trained import torn, weights
from transformers import CLIPVisionModelWithProjection

import conceptguard
from conceptguard.errors import PolicyError
from conceptguard.finding.encoders import load_encoder
from conceptguard.generation.conditioning import Encoded, pick, stack
from conceptguard.measuring.judge import Judge
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"]}
SHIPPED = ROOT / "registry" / "models" / "emoji-adapter"
QUICK: dict[str, Any] = {"steps": 4, "batch": 2, "trajectory_steps": 3, "templates": ["{}"], "shots": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


def written(unet: Any, folder: Path) -> str:
    """An adapter that says something, of random weights."""
    random, width = torch.Generator().manual_seed(0), unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * width, 128, generator=random) / 8,
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    for number, layer in solved.layers_of(unet).items():
        tensors[f"ip_adapter.{number}.to_k_ip.weight"] = layer.to_k.weight.detach().clone()
        values = torch.randn(layer.to_v.weight.shape, generator=random) / 8
        tensors[f"ip_adapter.{number}.to_v_ip.weight"] = values
    save_file(tensors, folder / "ip_adapter.safetensors")
    return str(folder / "ip_adapter.safetensors")


@pytest.fixture(scope="module")
def adapter(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(pipe.unet, tmp_path_factory.mktemp("adapter"))


def make(pipe: Any, out: Path, adapter: str, **options: Any) -> Artifact:
    given = {**QUICK, "adapter": adapter, "encoder": "emoji-encoder", "progress": False, **options}
    return CoErasing.make(host_for(pipe), BEER, out, **given)


def test_a_picture_is_said_in_the_words_of_the_text() -> None:
    texts = torch.eye(4)[None] * 8
    mixed = refined(torch.tensor([[[0.0, 40, 0, 0], [0, 0, 0, 0]]]), texts)
    assert torch.allclose(mixed[0, 0], texts[0, 1], atol=1e-3), "of which it is the likest"
    assert torch.allclose(mixed[0, 1], texts[0].mean(0)), "of all, where it is like none"


def test_conditions_without_a_picture_have_zeros_beside_those_with_one() -> None:
    shown = Encoded(torch.ones(1, 2, 3), [[1]], pictures=torch.ones(1, 4, 3))
    both = stack(Encoded(torch.zeros(1, 2, 3), [[0]]), shown)
    assert both.pictures is not None and both.pictures.sum((1, 2)).tolist() == [0, 12]
    (last,) = pick(both, [1]).pictures  # type: ignore[misc]
    assert last.sum() == 12 and stack(Encoded(torch.zeros(1, 2, 3), [[0]])).pictures is None


@torch.no_grad()
def test_pictures_are_read_as_plain_diffusers_reads_them(pipe: Any, adapter: str) -> None:
    host = host_for(pipe)
    denoiser, text = host.denoiser(), host.encode(["a dog"])
    random = torch.Generator().manual_seed(1)
    picture, latents = torch.rand(1, 3, 128, 128, generator=random), torch.randn(1, 4, 16, 16, generator=random)
    tokens, times = denoiser.picture_prompts(adapter, "emoji-encoder", picture), torch.tensor([500])
    bare = denoiser(latents, times, text)
    shown = Encoded(text.embeds, text.ids, pictures=tokens)
    with denoiser.reading_pictures(adapter):
        assert torch.allclose(denoiser(latents, times, text), bare, atol=1e-6), "without a picture nothing is added"
        own = denoiser(latents, times, shown)
    assert torch.equal(denoiser(latents, times, text), bare), "and nothing is left behind"
    encoder = CLIPVisionModelWithProjection.from_pretrained(ROOT / "registry/models/emoji-encoder", dtype=torch.float32)
    pipe.load_ip_adapter(str(Path(adapter).parent), subfolder="", weight_name=Path(adapter).name,
                         image_encoder_folder=None)  # fmt: skip
    try:
        (projection,) = pipe.unet.encoder_hid_proj.image_projection_layers
        assert isinstance(projection, ImageProjection)
        with pytest.raises(PolicyError, match="reads pictures already"), denoiser.reading_pictures(adapter):
            pass
        pixels = load_encoder().processor(images=(picture[0] * 255).round().byte(), return_tensors="pt").pixel_values
        embeds = encoder(pixels).image_embeds[:, None]
        theirs = pipe.unet(latents, 500, text.embeds, added_cond_kwargs={"image_embeds": [embeds]}).sample
    finally:
        pipe.unload_ip_adapter()
    assert torch.allclose(own, theirs, atol=1e-4) and not torch.allclose(own, bare, atol=1e-2)


def test_a_picture_draws_what_is_in_it_by_plain_diffusers(pipe: Any) -> None:
    found = shares(pipe, Judge.load(ROOT / "registry/models/emoji-judge"), SHIPPED, 12)
    assert found["same"] >= 0.25, "of 134 objects"
    assert found["other"] == 0, "what is drawn is what that very picture shows"


@torch.no_grad()
def test_the_shipped_adapter_adds_nothing_for_no_picture(pipe: Any) -> None:
    states, tensors = States(pipe), load_file(SHIPPED / "ip_adapter.safetensors")
    tensors = {name: it.float() for name, it in tensors.items()}
    projection = Projection(128, states)
    projection.matrix.weight.copy_(tensors["image_proj.proj.weight"])
    start = states.gain * projection(torch.zeros(1, 128)) + states.bias
    assert torch.allclose(start, states.start.expand_as(start), atol=1e-3), "all tokens are how every text begins"
    for number in solved.layers_of(pipe.unet):
        values = tensors[f"ip_adapter.{number}.to_v_ip.weight"]
        assert (values @ states.start).norm() < 0.03 * values.norm() * states.start.norm(), "which nothing is added for"


def test_it_learns_of_pictures_what_esd_does_not(tiny: Any, tmp_path: Path) -> None:
    adapter = written(tiny.unet, tmp_path)
    made = make(tiny, tmp_path / "both", adapter)
    options = {key: value for key, value in QUICK.items() if key != "shots"}
    esd = ESD.make(host_for(tiny), BEER, tmp_path, progress=False, **options)
    assert weights(made) != weights(esd) and made.tensors().keys() == esd.tensors().keys()
    draw = partial(generate, tiny, ["a beer", "a dog"], num_inference_steps=2)
    bare = draw()
    with conceptguard.attach(tiny, {"guards": [{"method": "co_erasing", "artifact": str(made.folder)}]}):
        guarded = draw()
    assert not torch.equal(guarded[0], bare[0]) and torch.equal(guarded[1], bare[1])
    assert torch.equal(draw(), bare)


def test_an_interrupted_training_ends_with_the_same_bits(tiny: Any, tmp_path: Path) -> None:
    adapter = written(tiny.unet, tmp_path)
    whole = make(tiny, tmp_path / "whole", adapter)
    torn(2, partial(make, tiny, tmp_path / "torn", adapter))
    assert tiny.unet.encoder_hid_proj is None
    assert weights(make(tiny, tmp_path / "torn", adapter)) == weights(whole)


def test_bad_adapters_are_named(tiny: Any, adapter: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "no.safetensors")
    with pytest.raises(PolicyError, match="not an IP-Adapter of the plain kind"):
        make(tiny, tmp_path, str(tmp_path / "no.safetensors"))
    with pytest.raises(
        PolicyError, match=r"another model than this one: give an image adapter .* \(--set adapter=FILE\)"
    ):
        make(tiny, tmp_path, adapter)
    with pytest.raises(PolicyError, match=r"no image_encoder lies with it.* \(--set encoder=FOLDER\)"):
        make(tiny, tmp_path, adapter, encoder=None)
    with pytest.raises(PolicyError, match="not a CLIP that reads pictures"):
        make(tiny, tmp_path, adapter, encoder=str(tmp_path))
