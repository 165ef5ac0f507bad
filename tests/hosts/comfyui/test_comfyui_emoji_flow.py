"""emoji-flow in ComfyUI beside the same folder in diffusers: the same model, and guards erase in both."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sampling import encode, sample
from test_comfyui_twins import flux_prediction

import conceptguard
from conceptguard.errors import SessionError
from conceptguard.measuring.judges import load_judge

DOG = "a dog, noto style"
PISTOL = "a pistol, noto style"


@pytest.fixture(scope="module")
def both(comfy: None) -> Iterator[list[Any]]:
    from conceptguard.hosts.comfyui.load import load_parts

    found = [conceptguard.load_model("emoji-flow"), load_parts("emoji-flow")]
    yield found
    found.clear()  # while there is still a ComfyUI for its last words
    gc.collect()


@torch.inference_mode()
def test_the_same_text_prediction_and_picture(both: Any) -> None:
    """What ComfyUI says of a text is what diffusers says, but for the zeros in T5's place."""
    pipe, parts = both
    text = encode(parts.clip, DOG)
    states, _, pooled, _ = pipe.encode_prompt(DOG, None, None, do_classifier_free_guidance=False, max_sequence_length=3)
    assert not states[:, 77:].any() and states.shape[1] == 80
    assert (text[0][0] - states[:, :77]).abs().max() < 1e-4
    assert (text[0][1]["pooled_output"] - pooled).abs().max() < 1e-4
    x = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    mine = flux_prediction(parts.model, text, x)
    theirs = pipe.transformer(x, states[:, :77], pooled, torch.tensor([500.0])).sample
    assert theirs.std() > 0.01
    assert (mine - theirs).abs().max() < 1e-4
    image = pipe.vae.decode(x).sample.clamp(-1, 1)[0].permute(1, 2, 0) / 2 + 0.5
    assert (parts.vae.decode(x)[0] - image).abs().max() < 1e-3
    assert parts.model.model.model_sampling.shift == pipe.scheduler.config.shift


GUARDS = {
    "negative_guidance": {"method": "negative_guidance", "concept": {"name": "pistol", "prompts": ["pistol", "gun"]}},
    "sld": {"method": "sld", "concept": {"name": "pistol", "prompts": ["pistol", "gun"]}, "level": "max"},
}


@torch.inference_mode()
@pytest.mark.parametrize("name", GUARDS)
def test_guards_erase_here_as_in_diffusers(both: Any, bare: list[str], name: str) -> None:
    """Of four pictures of pistols none is left, and a dog is the same to the last bit."""
    _, parts = both
    assert bare.count("pistol") >= 3
    with conceptguard.attach((parts.model, parts.clip), {"guards": [GUARDS[name]]}) as session:
        session.host.candidates = lambda: [PISTOL, DOG, ""]
        assert "pistol" not in drawn(session.host.guarded(), parts, PISTOL)[0]
        assert torch.equal(drawn(session.host.guarded(), parts, DOG)[1], drawn(parts.model, parts, DOG)[1])


def test_a_short_name_is_the_artifact_for_this_model(both: Any) -> None:
    """One ships for emoji-sd, and one for emoji-flow."""
    model, clip = both[1].model, both[1].clip
    with conceptguard.attach((model, clip), {"guards": [{"method": "uce", "artifact": "uce/pistol"}]}) as on:
        assert on.methods[0].artifact.ref == "emoji-flow/uce/pistol"


@pytest.fixture(scope="module")
def bare(both: Any) -> list[str]:
    return drawn(both[1].model, both[1], PISTOL)[0]


@torch.inference_mode()
def drawn(model: Any, parts: Any, text: str) -> tuple[list[str], torch.Tensor]:
    """What the judge sees in four pictures, and their latents."""
    judge = load_judge("emoji-sd")
    latents = sample(
        model, encode(parts.clip, text), encode(parts.clip, ""), latent=torch.zeros(4, 16, 16, 16), steps=15
    )
    return judge.judge(parts.vae.decode(latents).permute(0, 3, 1, 2)).objects, latents


def test_what_is_no_such_model_is_refused(comfy: None, tmp_path: Any) -> None:
    from conceptguard.hosts.comfyui.load import load_parts

    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(SessionError, match="ComfyUI's own loaders"):
        load_parts(str(tmp_path))
    (tmp_path / "transformer" / "config.json").unlink(), (tmp_path / "transformer").rmdir()
    with pytest.raises(SessionError, match=r"not a Stable Diffusion 1.x or 3"):
        load_parts(str(tmp_path))
