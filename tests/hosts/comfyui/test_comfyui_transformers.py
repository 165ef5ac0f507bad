"""Stable Diffusion 3 and Wan in ComfyUI beside the same tiny model in diffusers: one artifact, one prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling import encode
from test_comfyui_twins import (
    APPLE,
    CONCEPT,
    SMOKING,
    acted,
    edit,
    flux_prediction,
    lora,
    tokenizer_of_module,  # noqa: F401
)
from torch import Tensor

from conceptguard import attach
from conceptguard.errors import PolicyError, Refused


@pytest.fixture(scope="module")
def sd3(comfy: None, tokenizer_of_module: Any) -> Any:  # noqa: F811
    from twins import sd3_parts, sd3_pipe

    pipe = sd3_pipe(tokenizer_of_module)
    return pipe, sd3_parts(pipe)


@pytest.fixture(scope="module")
def wan(comfy: None, tokenizer_of_module: Any) -> Any:  # noqa: F811
    from tiny_transformers import tiny_wan
    from twins import wan_parts

    pipe = tiny_wan(tokenizer_of_module)
    return pipe, wan_parts(pipe)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("made", [lora, edit])
def test_sd3_predicts_as_in_diffusers(made: Any, sd3: Any, tmp_path: Path) -> None:
    pipe, parts = sd3
    guard = made(tmp_path / "cigarette", pipe, "transformer", gate="always")
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    session.host.candidates = lambda: [SMOKING]
    with torch.inference_mode():
        text = encode(parts.clip, SMOKING)
        x, embeds, pooled = noise(1, 16, 8, 8), text[0][0], text[0][1]["pooled_output"]
        mine = flux_prediction(session.host.guarded(), text, x)
        bare = flux_prediction(parts.model, text, x)
        with with_terms(pipe, guard) as terms:
            theirs = pipe.transformer(x, embeds, pooled, torch.tensor([500.0])).sample
            assert terms
    assert (mine - bare).abs().max() > 0.01
    assert (mine - theirs).abs().max() < 1e-4


@contextmanager
def with_terms(pipe: Any, guard: dict[str, Any]) -> Iterator[Any]:
    """The guard's terms open beside the diffusers model, whose own session reads no embeddings of other encoders."""
    from conceptguard.runtime.bank import running

    with attach(pipe, {"guards": [guard]}) as session:
        session.banks.set("transformer", torch.ones(1, 1))
        session.host._denoiser_hooks.close()
        token = running.set(session)
        try:
            yield session.banks.banks
        finally:
            running.reset(token)


@pytest.mark.parametrize("made", [lora, edit])
def test_wan_predicts_as_in_diffusers(made: Any, wan: Any, tmp_path: Path) -> None:
    pipe, parts = wan
    guard = made(tmp_path / "cigarette", pipe, "transformer", gate="always")
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    assert session.layers.shapes() == shapes(pipe)
    x, text = noise(1, 16, 3, 4, 4), noise(1, 512, 64, seed=1)
    with torch.inference_mode():
        mine = flux_prediction(session.host.guarded(), [[text, {}]], x)
        bare = flux_prediction(parts.model, [[text, {}]], x)
        with attach(pipe, {"guards": [guard]}):
            theirs = pipe.transformer(x, torch.tensor([500.0]), text).sample
    assert (mine - bare).abs().max() > 0.01
    assert (mine - theirs).abs().max() < 1e-4


def shapes(pipe: Any) -> Any:
    with attach(pipe, {}) as session:
        return session.layers.shapes()


@pytest.mark.parametrize("kind", ["sd3", "wan"])
@pytest.mark.parametrize("method", ["safree", "magicmix", "sld", "negative_guidance", "ant", "trce"])
def test_guards_without_artifact(method: str, kind: str, request: pytest.FixtureRequest) -> None:
    _, parts = request.getfixturevalue(kind)
    guard: dict[str, Any] = {"method": method, "concept": CONCEPT}
    if method == "safree":
        guard |= {"alpha": 0.0, "schedule": False}  # to random weights every word says little
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    acted(session, parts, (16, 8, 8) if kind == "sd3" else (16, 2, 4, 4), steps=6)


@pytest.mark.parametrize("kind", ["sd3", "wan"])
@pytest.mark.parametrize("guard", [{"method": "astar"}, {"method": "safree", "reattention": True}])
def test_guards_of_unets_say_so(guard: dict[str, Any], kind: str, request: pytest.FixtureRequest) -> None:
    _, parts = request.getfixturevalue(kind)
    with pytest.raises(PolicyError, match="UNet"):
        attach((parts.model, parts.clip), {"guards": [{**guard, "concept": CONCEPT}]})


def test_a_long_prompt_on_sd3_is_refused(sd3: Any) -> None:
    """Behind CLIP's windows come T5's: whose is whose cannot be told."""
    from sampling import sample

    _, parts = sd3
    session = attach((parts.model, parts.clip), {"guards": [{"method": "sld", "concept": CONCEPT}]})
    long = f"{APPLE} " * 40
    session.host.candidates = lambda: [long, ""]
    with torch.inference_mode():
        cond = encode(parts.clip, long), encode(parts.clip, "")
    with pytest.raises(Refused, match="text is not known"):
        sample(session.host.guarded(), *cond, latent=torch.zeros(1, 16, 8, 8))


def test_a_lora_on_fused_projections_that_takes_terms_back(sd3: Any, tmp_path: Path) -> None:
    """q, k and v are one weight in ComfyUI: patches on parts of it beside terms on parts of it."""
    import comfy.sd
    from safetensors.torch import load_file

    from conceptguard.errors import GuardError

    pipe, parts = sd3
    guard = lora(tmp_path / "cigarette", pipe, "transformer", gate="always")
    file = next((tmp_path / "cigarette").glob("*.safetensors"))
    own = {key.replace("lora_unet_", "lora_transformer_"): t for key, t in load_file(file).items()}
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    session.host.candidates = lambda: [SMOKING]
    assert any("to_q" in name for name in session.banks.banks)
    with torch.inference_mode():
        text, x = encode(parts.clip, SMOKING), noise(1, 16, 8, 8)
        with pytest.raises(GuardError, match="takes back 100%"):
            flux_prediction(comfy.sd.load_lora_for_models(session.host.guarded(), None, own, -1.0, 0)[0], text, x)
        twice = flux_prediction(comfy.sd.load_lora_for_models(session.host.guarded(), None, own, 1.0, 0)[0], text, x)
        assert "add 100.0%" in session.receipt.acts[0].notes[0]
        theirs = flux_prediction(comfy.sd.load_lora_for_models(parts.model, None, own, 2.0, 0)[0], text, x)
    assert (twice - theirs).abs().max() < 1e-4
