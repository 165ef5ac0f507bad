"""What a guard cannot do in a pipeline is said for what it is, and when it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from random_artifacts import RandomTerms, membrane
from tiny import clip_tokenizer, generate, tiny_sd
from tiny_transformers import tiny_flux

import conceptguard
from conceptguard.errors import GuardError, SessionError
from conceptguard.testing.kit_guards import offered

CONCEPT = {"name": "cigarette", "prompts": ["cigarette"]}


def cut(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
    """As diffusers' own callbacks that turn guidance off after a share of the steps, for any batch."""
    if step == 1:
        given = {name: value.chunk(2)[-1] for name, value in given.items()}
        pipe._guidance_scale = 0.0
    return given


CUT = {"callback_on_step_end": cut, "callback_on_step_end_tensor_inputs": ["prompt_embeds"], "num_inference_steps": 4}
NEEDS_GUIDANCE = {
    "sld": {},
    "negative_guidance": {},
    "safree": {"negative_prompt": True, "projection": False},
    "magicmix": {"negative": True, "kmax": 1.0, "kmin": 0.9},
}


@pytest.mark.parametrize("method", NEEDS_GUIDANCE)
def test_guidance_that_is_turned_off_half_way(method: str, tiny: Any) -> None:
    """Not "set guidance_scale above 1", which it was; what asks for no guarded concept is drawn as ever."""
    concept = {**CONCEPT, "replacement": "banana"} if method == "magicmix" else CONCEPT
    bare = generate(tiny, ["a red apple", "a dog"], **CUT)
    with conceptguard.attach(tiny, {"guards": [{"method": method, "concept": concept, **NEEDS_GUIDANCE[method]}]}):
        with pytest.raises(GuardError, match="guidance was turned off in the middle of this generation"):
            generate(tiny, ["a red apple", "a cigarette"], **CUT)
        assert torch.equal(generate(tiny, ["a red apple", "a dog"], **CUT), bare)
        with pytest.raises(GuardError, match=r"set guidance_scale above 1|set negative: false"):
            generate(tiny, "a cigarette", guidance_scale=1.0)


def test_terms_go_on_when_guidance_is_turned_off(tiny: Any, policy: dict[str, Any]) -> None:
    bare = generate(tiny, ["a red apple", "a cigarette"], **CUT)
    with conceptguard.attach(tiny, policy) as guard:
        got = generate(tiny, ["a red apple", "a cigarette"], **CUT)
        assert guard.receipt.acts[0].steps == [0, 1, 2, 3]
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1])


def without_encoders(kind: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline for embeddings that were made elsewhere, and these."""
    if kind == "flux":
        full: Any = tiny_flux(clip_tokenizer())
        embeds, pooled, _ = full.encode_prompt(["a cigarette"], max_sequence_length=32)
        parts = {"transformer": full.transformer, "scheduler": full.scheduler, "vae": full.vae}
        names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        pipe: Any = FluxPipeline(**parts, **dict.fromkeys(names))
        call = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "height": 32, "width": 32}
    else:
        full = tiny_sd(clip_tokenizer())
        embeds, negative = full.encode_prompt(["a cigarette"], "cpu", 1, True)
        parts = {**full.components, "text_encoder": None, "tokenizer": None}
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        call = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**call, "num_inference_steps": 2, "output_type": "latent"}


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_pipelines_without_encoders(kind: str) -> None:
    """A guard that reads texts is refused at attach; one that is always open is none."""
    pipe, call = without_encoders(kind)
    bare = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    with offered(RandomTerms) as terms:
        for guard in ({"method": "sld", "concept": CONCEPT}, {**terms, "concept": CONCEPT}):
            with pytest.raises(SessionError, match=r"was loaded without text_encoder.*: attach the policy"):
                conceptguard.attach(pipe, {"guards": [guard]})
        with conceptguard.attach(pipe, {"guards": [{**terms, "concept": CONCEPT, "gate": "always"}]}) as session:
            got = pipe(**call, generator=torch.Generator().manual_seed(0)).images
            assert session.receipt.acts[0].steps == [0, 1]
    assert not torch.allclose(got, bare)


def test_an_attach_that_fails(tiny: Any, tmp_path: Path) -> None:
    """An attach that fails leaves the pipeline free for another one."""
    with pytest.raises(conceptguard.ConceptGuardError):
        conceptguard.attach(tiny, {"guards": [{"method": "spm", "artifact": "no/such/artifact"}]})
    with conceptguard.attach(tiny, {"guards": [membrane(tmp_path, tiny)]}):
        pass
