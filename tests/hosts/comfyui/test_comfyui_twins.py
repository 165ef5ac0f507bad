"""SDXL and FLUX in ComfyUI beside the same tiny model in diffusers: one artifact, one prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import random_edit, random_terms, write_terms
from sampling import bare_of, encode, sample, zeros
from torch import Tensor

from conceptguard import attach

CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "a man smoking a cigarette"]}
SMOKING, APPLE = "a man smoking a cigarette", "a red apple"


@pytest.fixture(scope="module")
def xl(comfy: None, tokenizer_of_module: Any) -> Any:
    from twins import sdxl_parts, sdxl_pipe

    pipe = sdxl_pipe(tokenizer_of_module)
    return pipe, sdxl_parts(pipe)


@pytest.fixture(scope="module")
def flux(comfy: None, tokenizer_of_module: Any) -> Any:
    from tiny_transformers import tiny_flux
    from twins import flux_parts

    pipe = tiny_flux(tokenizer_of_module)
    return pipe, flux_parts(pipe)


@pytest.fixture(scope="module")
def tokenizer_of_module() -> Any:
    from tiny import clip_tokenizer

    return clip_tokenizer()


def lora(folder: Path, pipe: Any, component: str, **more: Any) -> dict[str, Any]:
    """A guard: random terms beside every attention layer."""
    names = ("attn", "proj_mlp", "ff", "proj_out")
    terms = random_terms(pipe, names=names, component=component, rank=2, size=0.3)
    terms = {name: term for name, term in terms.items() if not name.endswith(f"{component}.proj_out")}
    return {"method": "lora", "artifact": str(write_terms(folder, pipe, terms, method="lora")), **more}


def edit(folder: Path, pipe: Any, component: str, **more: Any) -> dict[str, Any]:
    """A guard: a random edit of every layer that reads text, also where another one reads pooled vectors."""
    return {**random_edit(folder, pipe), **more}


def test_layers_and_texts_are_those_of_diffusers(xl: Any) -> None:
    pipe, parts = xl
    with attach(pipe, {}) as theirs:
        mine = attach((parts.model, parts.clip), {})
        assert mine.layers.shapes() == theirs.layers.shapes()
        assert mine.host.fingerprint() == theirs.host.fingerprint()
        texts = [SMOKING, "", ("a cup", "a red apple", "")]
        a, b = mine.host.encode(texts), theirs.host.encode(texts)
    assert a.ids == b.ids
    assert (a.pooled - b.pooled).abs().max() < 1e-5 and (a.embeds[:1] - b.embeds[:1]).abs().max() < 1e-5
    assert (a.embeds[2] - b.embeds[2])[:3].abs().max() < 1e-5


@pytest.mark.parametrize(("gate", "made"), [("prompt", lora), ("always", lora), ("prompt", edit)])
def test_sdxl_predicts_as_in_diffusers(gate: str, made: Any, xl: Any, tmp_path: Path) -> None:
    pipe, parts = xl
    guard = made(tmp_path / "cigarette", pipe, "unet", gate=gate)
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    session.host.candidates = lambda: [SMOKING, ""]
    model = session.host.guarded()
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mine = first_prediction(model, encode(parts.clip, SMOKING), encode(parts.clip, ""), x)
        bare = first_prediction(parts.model, encode(parts.clip, SMOKING), encode(parts.clip, ""), x)
        with attach(pipe, {"guards": [guard]}):
            towards, away, pool, no_pool = pipe.encode_prompt(SMOKING, device="cpu", num_images_per_prompt=1)
            # ComfyUI encodes a prompt that is empty; this pipeline would give zeros for none
            away, _, no_pool, _ = pipe.encode_prompt("", device="cpu", do_classifier_free_guidance=False)
            size = torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)
            added = {"text_embeds": torch.cat([no_pool, pool]), "time_ids": size}
            theirs = pipe.unet(torch.cat([x, x]), 500, torch.cat([away, towards]), added_cond_kwargs=added).sample
    assert (mine - bare).abs().max() > 0.01
    assert (mine - theirs).abs().max() < 1e-4


def first_prediction(model: Any, positive: Any, negative: Any, x: Tensor) -> Tensor:
    """What the diffusion model itself gives at timestep 500: [unconditional, conditional]."""
    import comfy.samplers

    found: list[Tensor] = []
    # before ours: what a guard adds afterwards to a prediction is not here, terms are
    handle = model.model.diffusion_model.register_forward_hook(lambda m, a, out: found.append(out))
    sigma = model.get_model_object("model_sampling").sigma(torch.tensor([500.0]))
    towards = [[c, {**d, "width": 64, "height": 64}] for c, d in positive]
    away = [[c, {**d, "width": 64, "height": 64}] for c, d in negative]

    def once(call: Any, noise: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        call(x * (1 + sigma**2) ** 0.5, sigma.expand(len(x)), **extra_args)
        return noise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(towards, away)
    guider.set_cfg(2.0)
    try:
        guider.sample(x, x * 0, comfy.samplers.KSAMPLER(once), torch.tensor([float(sigma), 0.0]), disable_pbar=True)
    finally:
        handle.remove()
    return found[0]


@pytest.mark.parametrize("method", ["safree", "sld", "negative_guidance", "ant", "trce"])
def test_guards_without_artifact_on_sdxl(method: str, xl: Any) -> None:
    _, parts = xl
    session = attach((parts.model, parts.clip), {"guards": [{"method": method, "concept": CONCEPT}]})
    acted(session, parts, (4, 8, 8))


def acted(session: Any, parts: Any, shape: Any, acts: bool = True, **options: Any) -> None:
    """The concept's prompt opens the guard; another one's picture stays as it was."""
    session.host.candidates = lambda: [SMOKING, APPLE, ""]
    model, bare, latent = session.host.guarded(), bare_of(parts), zeros(1, *shape)
    for text in (APPLE, SMOKING):
        out = sample(model, bare.encode(text), bare.encode(""), latent=latent, **options)
        opened = any(session.receipt.acts[0].gates)
        assert torch.equal(out, bare.sample(text, latent=latent, **options)) == (not session.receipt.opened)
        assert opened or text is APPLE, "the concept's own prompt must open it"


@pytest.mark.parametrize("made", [lora, edit])
def test_flux_predicts_as_in_diffusers(made: Any, flux: Any, tmp_path: Path) -> None:
    """Also beside queries, keys and values that are one layer in ComfyUI and three in diffusers."""
    pipe, parts = flux
    guard = made(tmp_path / "cigarette", pipe, "transformer", gate="always")
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    assert {n for n in session.layers if "to_q" in n} == {n for n in attach_layers(pipe) if "to_q" in n}
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(1))
    pooled = torch.randn(1, 32, generator=torch.Generator().manual_seed(2))
    cond = [[text, {"pooled_output": pooled, "guidance": 3.5}]]
    packed = x.view(1, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 16)
    rows = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1).reshape(16, 2)
    with torch.inference_mode():
        mine = flux_prediction(session.host.guarded(), cond, x)
        bare = flux_prediction(parts.model, cond, x)
        with attach(pipe, {"guards": [guard]}):
            out = pipe.transformer(
                packed, text, pooled, torch.tensor([0.5]), torch.cat([torch.zeros(16, 1), rows.float()], 1),
                torch.zeros(256, 3), torch.tensor([3.5]),
            ).sample  # fmt: skip
    theirs = out.view(1, 4, 4, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 8, 8)
    assert (mine - bare).abs().max() > 0.01
    assert (mine - theirs).abs().max() < 1e-4


def attach_layers(pipe: Any) -> set[str]:
    with attach(pipe, {}) as session:
        return set(session.layers)


def flux_prediction(model: Any, cond: Any, x: Tensor) -> Tensor:
    """At half of the way, without guidance of two branches."""
    import comfy.samplers

    found: list[Tensor] = []

    def once(call: Any, noise: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        found.append((x - call(x, torch.tensor([0.5]), **extra_args)) / 0.5)
        return noise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(cond, cond)
    guider.set_cfg(1.0)
    guider.sample(x, x * 0, comfy.samplers.KSAMPLER(once), torch.tensor([0.5, 0.0]), disable_pbar=True)
    return found[0]


@pytest.mark.parametrize("method", ["safree", "negative_guidance"])
def test_guards_without_artifact_on_flux(method: str, flux: Any) -> None:
    _, parts = flux
    guard: dict[str, Any] = {"method": method, "concept": CONCEPT}
    if method == "safree":
        guard |= {"alpha": 0.0, "schedule": False}  # to random weights every word says little
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    acted(session, parts, (4, 8, 8), cfg=1.0 if method == "safree" else 2.0)
