"""emoji-flow in ComfyUI beside the same folder in diffusers, before it was taught anything."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sampling import encode
from test_comfyui_twins import flux_prediction

import conceptguard
from conceptguard.errors import SessionError

DOG = "a dog, noto style"
GUARD = {"method": "sld", "concept": {"name": "dog", "prompts": ["dog"]}}


@pytest.fixture(scope="module")
def both(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    from untaught_flow import exported

    from conceptguard.hosts.comfyui.load import load_parts

    folder = exported(tmp_path_factory.mktemp("flow"))
    found = [conceptguard.load_model(str(folder)), load_parts(str(folder))]
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


@torch.inference_mode()
def test_a_guard_acts(both: Any) -> None:
    from sampling import sample

    _, parts = both
    latent = torch.zeros(1, 16, 16, 16)
    text = encode(parts.clip, DOG), encode(parts.clip, "")
    bare = sample(parts.model, *text, latent=latent)
    with conceptguard.attach((parts.model, parts.clip), {"guards": [GUARD]}) as session:
        session.host.candidates = lambda: [DOG, ""]
        guarded = sample(session.host.guarded(), *text, latent=latent)
        assert "open 1.00" in str(session.receipt)
    assert (guarded - bare).abs().max() > 1e-3


def test_what_is_no_such_model_is_refused(comfy: None, tmp_path: Any) -> None:
    from conceptguard.hosts.comfyui.load import load_parts

    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(SessionError, match="ComfyUI's own loaders"):
        load_parts(str(tmp_path))
    (tmp_path / "transformer" / "config.json").unlink(), (tmp_path / "transformer").rmdir()
    with pytest.raises(SessionError, match=r"not a Stable Diffusion 1.x or 3"):
        load_parts(str(tmp_path))
