"""Stable Diffusion 3, FLUX and video pipelines: the promises, on tiny pipelines with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from random_artifacts import random_terms, write_terms
from tiny_transformers import generate, tiny_flux, tiny_sd3, tiny_wan
from torch import nn

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import Clarification, ConceptGuardError, GuardError, Refused
from conceptguard.generation import Images, Verdict
from conceptguard.lowrank import Factors, LayerIndex, Terms
from conceptguard.testing.kit_guards import offered

MAKERS = {"sd3": tiny_sd3, "flux": tiny_flux, "wan": tiny_wan}
# FLUX is guided in the classic sense only where a negative prompt is given.
GUIDED: dict[str, dict[str, Any]] = {
    "sd3": {}, "wan": {}, "flux": {"negative_prompt": ["", ""], "true_cfg_scale": 3.0},
}  # fmt: skip
UNRELATED, OPENS = "a red apple", "a cigarette"
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}


class RandomTerms(Method):
    """Rank-2 terms beside every query projection of the denoiser, opened by prompt."""

    name = "random-terms"
    needs = "concept"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        random = torch.Generator().manual_seed(0)
        own = f"{self.host.denoiser_name}."
        names = [name for name in layers.shapes() if name.startswith(own) and name.endswith("to_q")]
        made = {}
        for name in names:
            out, width = layers.shapes()[name]
            made[name] = Factors(torch.randn(2, width, generator=random), torch.randn(out, 2, generator=random))
        return Terms(self, made, self.gate())


@pytest.fixture(params=MAKERS)
def family(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    """A pipeline, and what makes a call of it guided."""
    return MAKERS[request.param](tokenizer), GUIDED[request.param]


def policy(method: str, **settings: Any) -> dict[str, Any]:
    """One guard."""
    return {"name": "test", "guards": [{"method": method, "concept": CONCEPT, **settings}]}


def hooks(pipe: Any) -> int:
    """How many hooks and forwards of ours the pipeline's modules carry; transformers leaves some of its own."""
    modules = [m for part in pipe.components.values() if isinstance(part, nn.Module) for m in part.modules()]
    found = [h for m in modules for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    ours = [h for h in found if getattr(h, "__module__", "").startswith("conceptguard")]
    return len(ours) + sum("forward" in vars(m) for m in modules)


@pytest.mark.parametrize("method", ["random-terms", "safree", "sld", "negative_guidance", "ant", "trce"])
def test_promises(family: tuple[Any, dict[str, Any]], method: str) -> None:
    """No guard tax, rows separate, true receipts, no trace."""
    pipe, guided = family
    settings = {"trce": {"early": 1.0}, "safree": {"alpha": 0.0, "schedule": False}}.get(method, {})
    own = type(pipe)
    with offered(RandomTerms):
        bare = generate(pipe, [UNRELATED, OPENS], **guided)
        plain = generate(pipe, [UNRELATED] * 2, **guided)
        with conceptguard.attach(pipe, policy(method, **settings)) as guard:
            got = generate(pipe, [UNRELATED, OPENS], **guided)
            receipt = guard.receipt
            one = {name: value[:1] if isinstance(value, list) else value for name, value in guided.items()}
            alone = generate(pipe, [OPENS], [1], **one)
            assert torch.equal(generate(pipe, [UNRELATED] * 2, **guided), plain)
            assert not guard.receipt.opened
    assert torch.equal(got[0], bare[0])
    assert not torch.allclose(got[1], bare[1], atol=1e-4)
    torch.testing.assert_close(alone[0], got[1], atol=1e-4, rtol=1e-3)
    gates = {(row.text, row.branch): gate for row, gate in zip(receipt.rows, receipt.acts[0].gates)}
    assert gates[OPENS, "conditional"] == 1 and gates[UNRELATED, "conditional"] == 0
    assert not any(gate for (_, branch), gate in gates.items() if branch == "unconditional")
    assert receipt.opened and "open 1.00 on 'a cigarette'" in str(receipt)
    assert type(pipe) is own and not hooks(pipe)
    assert torch.equal(generate(pipe, [UNRELATED, OPENS], **guided), bare)


def test_every_prompt_of_a_call_is_read(tokenizer: Any) -> None:
    """FLUX reads prompt by CLIP and prompt_2 by T5; a concept in either opens the gate."""
    pipe = tiny_flux(tokenizer)
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")) as guard:
        for first, second in [(UNRELATED, OPENS), (OPENS, UNRELATED)]:
            generate(pipe, [first], prompt_2=[second])
            assert guard.receipt.acts[0].gates == [1.0]
            assert guard.receipt.rows[0].text == f"{first}, {second}"


def test_each_encoder_stands_where_it_is_said_to(family: tuple[Any, dict[str, Any]]) -> None:
    """Asked one by one, encoders say of a text what their part of the pipeline's own embedding says."""
    pipe, _ = family
    with conceptguard.attach(pipe, {"guards": []}) as session:
        own, encoders = session.host.encode([OPENS]), session.host.encoders()
        for encoder in encoders:
            ids = encoder.ids([OPENS])
            states, pooled = encoder.encode(ids)
            if encoder.width is not None:
                part = own.embeds[:, encoder.tokens, encoder.width]
                assert part.shape[-1] == states.shape[-1]
                exact = encoder.begins or isinstance(pipe, WanPipeline)  # the others let T5 see padding
                if exact:
                    torch.testing.assert_close(part[:, : encoder.length(ids[0])], states, atol=1e-5, rtol=1e-4)
            if encoder.pooled is not None:
                torch.testing.assert_close(own.pooled[:, encoder.pooled], pooled, atol=1e-5, rtol=1e-4)
        widths = [e.pooled.stop - e.pooled.start for e in encoders if e.pooled is not None]
        assert sum(widths) == (0 if own.pooled is None else own.pooled.shape[-1])
    assert len(encoders) == {"StableDiffusion3Pipeline": 3, "FluxPipeline": 2, "WanPipeline": 1}[type(pipe).__name__]


def test_safree_takes_each_encoders_own_prompt(tokenizer: Any) -> None:
    """FLUX's T5 is given another prompt than its CLIP: only the one with the concept is changed."""
    pipe = tiny_flux(tokenizer)
    guard = policy("safree", alpha=0.0, schedule=False, gate="always")
    seen: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    generate(pipe, [""], prompt_2=[OPENS])
    hook.remove()
    with conceptguard.attach(pipe, guard) as session:
        hook = pipe.transformer.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
        generate(pipe, [""], prompt_2=[OPENS])
        hook.remove()
        assert "trigger" in session.receipt.acts[0].notes[0]
    bare, safe = seen[0], seen[2]
    moved = (bare["encoder_hidden_states"] != safe["encoder_hidden_states"]).any(-1)[0].nonzero()[:, 0].tolist()
    assert moved and max(moved) < 2, "the two tokens of 'a cigarette', not the end, not the padding"
    assert torch.equal(bare["pooled_projections"], safe["pooled_projections"]), "CLIP was asked for nothing"


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux])
def test_embeddings_encoded_under_the_session_are_known(make: Callable[..., Any], tokenizer: Any) -> None:
    pipe = make(tokenizer)
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")) as guard:
        wide = {"prompt_3": [OPENS]} if make is tiny_sd3 else {}
        out = pipe.encode_prompt(prompt=[OPENS], prompt_2=[OPENS], max_sequence_length=32, **wide)
        pooled = out[2] if make is tiny_sd3 else out[1]
        given = {"prompt_embeds": out[0], "pooled_prompt_embeds": pooled}
        off = {"guidance_scale": 1.0} if make is tiny_sd3 else {}
        pipe(**given, **off, num_inference_steps=2, height=32, width=32, output_type="latent", max_sequence_length=32)
        assert guard.receipt.acts[0].gates == [1.0]


def test_unread_embeddings_are_refused_where_no_gate_can_read_them(tokenizer: Any) -> None:
    """Half of a Stable Diffusion 3 embedding is T5's, which the gates of CLIP's half know nothing about."""
    pipe = tiny_sd3(tokenizer)
    out = pipe.encode_prompt(prompt=[UNRELATED], prompt_2=[UNRELATED], prompt_3=[OPENS], max_sequence_length=32)
    given = {"prompt_embeds": out[0], "pooled_prompt_embeds": out[2], "guidance_scale": 1.0}
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")), pytest.raises(Refused, match="text"):
        pipe(**given, num_inference_steps=2, height=32, width=32, output_type="latent")


@pytest.mark.parametrize("make", [tiny_flux, tiny_wan])
def test_guidance_off_is_an_error_where_the_guard_opens(make: Callable[..., Any], tokenizer: Any) -> None:
    pipe = make(tokenizer)
    off = {"guidance_scale": 1.0} if make is tiny_wan else {}
    bare = generate(pipe, [UNRELATED], **off)
    with conceptguard.attach(pipe, policy("sld")):
        with pytest.raises(GuardError, match="needs classifier-free guidance"):
            generate(pipe, [OPENS], **off)
        assert torch.equal(generate(pipe, [UNRELATED], **off), bare)


def test_what_does_not_fit_attaches_nothing(family: tuple[Any, dict[str, Any]], tokenizer: Any) -> None:
    pipe, _ = family
    own = type(pipe)
    with pytest.raises(ConceptGuardError):
        conceptguard.attach(pipe, {"name": "t", "guards": [{"method": "spm", "artifact": "emoji-sd/spm/cigarette"}]})
    assert type(pipe) is own and not hooks(pipe)


def test_an_erased_lora_is_a_guard(family: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    """As a file, for a transformer: opened by prompt, nothing where it stays shut."""
    pipe, _ = family
    terms = random_terms(pipe, component="transformer", names=("to_q", "to_k"), rank=4)
    folder = write_terms(tmp_path / "lora", pipe, terms, method="lora")
    bare = generate(pipe, [UNRELATED, OPENS])
    with conceptguard.attach(pipe, {"name": "t", "guards": [{"method": "lora", "artifact": str(folder)}]}) as guard:
        got = generate(pipe, [UNRELATED, OPENS])
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)
    assert guard.receipt.acts[0].layers == len(terms) > 0


def test_clarify_asks(family: tuple[Any, dict[str, Any]]) -> None:
    pipe, _ = family
    words = {"smoke": {"a cigarette": ["man"], "a chimney": ["house"]}}
    with conceptguard.attach(pipe, policy("clarify", words=words)), pytest.raises(Clarification, match="smoke"):
        generate(pipe, ["some smoke"])


class SecondLooksBad(Method):
    """Flags the second image of a call."""

    name = "second-looks-bad"
    needs = "nothing"

    @hookimpl
    def check_image(self, images: Images) -> None:
        images.verdicts += [Verdict(i, self.guard.label, "second", float(i), i == 1) for i in range(len(images.pixels))]


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux])
def test_flagged_images_go_black(make: Callable[..., Any], tokenizer: Any) -> None:
    pipe = make(tokenizer)
    bare = generate(pipe, [UNRELATED, OPENS], output_type="np")
    looks = {"name": "t", "on_violation": "black", "guards": [{"method": "second-looks-bad"}]}
    with offered(SecondLooksBad), conceptguard.attach(pipe, looks):
        got = generate(pipe, [UNRELATED, OPENS], output_type="np")
    torch.testing.assert_close(got[0], bare[0], atol=1e-6, rtol=0)
    assert bare[1].any() and not got[1].any()


def test_a_guard_that_looks_at_images_refuses_video(tokenizer: Any) -> None:
    pipe = tiny_wan(tokenizer)
    looks = conceptguard.attach(pipe, {"name": "t", "guards": [{"method": "nudenet"}]})
    with looks, pytest.raises(GuardError, match="draws none"):
        generate(pipe, [UNRELATED], output_type="np")
