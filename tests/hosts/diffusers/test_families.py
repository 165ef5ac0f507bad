"""SDXL, Stable Diffusion 3, FLUX and video pipelines: the contract, on tiny pipelines with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import RandomTerms, random_terms, write_terms
from tiny import clip_tokenizer, tiny_sdxl
from tiny_modular import FLUX, SIZE, modular_flux, modular_sdxl
from tiny_transformers import generate, tiny_flux, tiny_sd3, tiny_wan
from torch import nn

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import Clarification, ConceptGuardError, GuardError, Refused
from conceptguard.generation.images import Images
from conceptguard.receipt import Verdict
from conceptguard.testing import Case, NotApplicable, contract_checks
from conceptguard.testing.kit_guards import offered

MAKERS = {"sd3": tiny_sd3, "flux": tiny_flux, "wan": tiny_wan}
# FLUX is guided in the classic sense only where a negative prompt is given.
GUIDED: dict[str, dict[str, Any]] = {
    "sd3": {}, "wan": {}, "flux": {"negative_prompt": ["", ""], "true_cfg_scale": 3.0},
}  # fmt: skip
UNRELATED, OPENS = "a red apple", "a cigarette"
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}


S32 = {"height": 32, "width": 32, "max_sequence_length": 32}
VIDEO = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 32}
OFF = {"guidance_scale": 1.0}
# How a pipeline is made, what its calls need, and what turns guidance off in them.
KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any] | None]] = {
    "sdxl": (tiny_sdxl, {}, OFF),
    "sd3": (tiny_sd3, S32, OFF),
    "flux": (tiny_flux, {**S32, "negative_prompt": "", "true_cfg_scale": 3.0}, {"true_cfg_scale": 1.0}),
    "wan": (tiny_wan, VIDEO, OFF),
    "modular sdxl": (modular_sdxl, SIZE, None),
    "modular flux": (modular_flux, FLUX, None),
}
METHODS: dict[str, dict[str, Any]] = {
    "random-terms": {}, "safree": {"alpha": 0.0, "schedule": False}, "sld": {},
    "negative_guidance": {}, "ant": {"early": 0.0}, "trce": {"early": 1.0},
}  # fmt: skip
# Half precision, other LoRAs and offload concern terms, and take long; what the noise guards share is tried with one.
HEAVY = {"bf16", "fp16", "lora_beside", "offloaded", "compiled"}
SHARED = {"it_acts", "rows_are_separate"}


@cache
def pipeline(kind: str) -> Any:
    """One for all checks of a kind: they leave it as it was, or fail."""
    return KINDS[kind][0](clip_tokenizer())


def _checks() -> Iterator[Any]:
    for kind, (_, call, unguided) in KINDS.items():
        for method, settings in METHODS.items():
            if kind == "modular flux" and method not in ("random-terms", "safree"):
                continue  # it has no guidance to act on, see test_modular
            guard = {"method": method, "concept": CONCEPT, **settings}
            case = Case(guard, opens=OPENS, load=partial(pipeline, kind), call=call, unguided=unguided)
            for name, check in contract_checks(case, slow=True):
                often = name not in HEAVY if method in ("random-terms", "safree", "sld") else name in SHARED
                if method == "random-terms" and kind in ("sdxl", "sd3"):
                    often = name not in ("fp16", "compiled")
                yield pytest.param(check, id=f"{kind}-{method}-{name}", marks=[] if often else [pytest.mark.slow])


@pytest.mark.parametrize("check", _checks())
def test_contract(check: Callable[[], None]) -> None:
    with offered(RandomTerms):
        try:
            check()
        except NotApplicable as reason:
            pytest.skip(str(reason))


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


def test_every_prompt_of_a_call_is_read(tokenizer: Any) -> None:
    """FLUX reads prompt by CLIP and prompt_2 by T5; a concept in either opens the gate."""
    pipe = tiny_flux(tokenizer)
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")) as guard:
        for first, second in [(UNRELATED, OPENS), (OPENS, UNRELATED)]:
            generate(pipe, [first], prompt_2=[second])
            assert guard.receipt.acts[0].gates == [1.0]
            assert guard.receipt.rows[0].text == f"{first}, {second}"


@pytest.mark.parametrize("length", [None, 24])
def test_each_encoder_says_what_the_denoiser_is_given(family: tuple[Any, dict[str, Any]], length: int | None) -> None:
    """Asked one by one, encoders say of a text what their part of the pipeline's own embedding says; of one that is
    cut, of the part that is read. The T5 of FLUX and Stable Diffusion 3 sees how far a text is padded."""
    pipe, _ = family
    texts = [OPENS, f"{UNRELATED} on a table " * 8]
    with conceptguard.attach(pipe, {"guards": []}) as session:
        own, encoders = session.host.encode(texts, length), session.host.encoders()
        for encoder in encoders:
            if encoder.width is not None:
                part = own.embeds[:, encoder.tokens, encoder.width]
                encoder.sees(part.shape[1])
            ids = encoder.ids(texts)
            for row, asked in enumerate(ids):
                states, pooled = encoder.encode([asked])
                if encoder.width is not None and encoder.length(asked) <= part.shape[1]:
                    assert part.shape[-1] == states.shape[-1]
                    torch.testing.assert_close(part[row, : encoder.length(asked)], states[0], atol=1e-5, rtol=1e-4)
                if encoder.pooled is not None:
                    torch.testing.assert_close(own.pooled[row, encoder.pooled], pooled[0], atol=1e-5, rtol=1e-4)
        widths = [e.pooled.stop - e.pooled.start for e in encoders if e.pooled is not None]
        assert sum(widths) == (0 if own.pooled is None else own.pooled.shape[-1])
    assert len(encoders) == {"StableDiffusion3Pipeline": 3, "FluxPipeline": 2, "WanPipeline": 1}[type(pipe).__name__]


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux])
def test_safree_reads_texts_as_the_call_pads_them(make: Callable[..., Any], tokenizer: Any) -> None:
    """What it puts in a trigger's place lies in the span of what T5 says there of the prompt, padding seen."""
    pipe = make(tokenizer)
    start = 77 if make is tiny_sd3 else 0
    seen: list[torch.Tensor] = []
    with conceptguard.attach(pipe, policy("safree", alpha=0.0, schedule=False, gate="always")) as session:
        method = session.methods[0]
        for length in (32, 48):
            hook = pipe.transformer.register_forward_pre_hook(
                lambda m, a, k: seen.append(k["encoder_hidden_states"][-1, start:]), with_kwargs=True
            )
            generate(pipe, [OPENS], max_sequence_length=length)
            hook.remove()
            t5 = next(encoder for encoder in session.host.encoders() if encoder.padded)
            t5.sees(length)
            ids = t5.ids([OPENS])[0]
            masked = [[0 if i == j else token for j, token in enumerate(ids)] for i in range(len(ids))]
            span = torch.linalg.qr(t5.vectors(masked)[0].T).Q
            assert session.receipt.opened
            (trigger,) = [i for i, moved in enumerate(method._readings[(OPENS,) * 3].parts[-1][0].positions) if moved]
            safe = seen[-1][trigger].float()
            torch.testing.assert_close(span @ (span.T @ safe), safe, atol=1e-4, rtol=1e-3)


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
