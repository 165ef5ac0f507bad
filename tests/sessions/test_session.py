"""A policy attached to whole pipelines: what is guarded, what is refused, what stands in the receipt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from image_guards import FlagsApples
from PIL import Image
from random_artifacts import layers_of, membrane, random_terms, write_terms
from tiny import generate

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import BaseMismatch, GuardError, Refused, SessionError
from conceptguard.generation.denoising import Step
from conceptguard.testing.kit_guards import Beside, Failing, offered

OPENS, UNRELATED = "a cigarette", "a red apple"


def test_attach_and_detach_are_refused_twice(tiny: Any, policy: dict[str, Any]) -> None:
    session = conceptguard.attach(tiny, policy)
    with pytest.raises(SessionError, match="already guarded by policy 'test': detach that session first"):
        conceptguard.attach(tiny, policy)
    session.detach()
    with pytest.raises(SessionError, match="not attached any more"):
        session.detach()
    with conceptguard.attach(tiny, policy):
        pass


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(SessionError, match=r"cannot guard a builtins\.dict: give a diffusers pipeline"):
        conceptguard.attach({}, {"guards": []})


def test_the_pipeline_looks_like_itself(tiny: Any, policy: dict[str, Any], tmp_path: Path) -> None:
    own = type(tiny)
    with conceptguard.attach(tiny, policy):
        assert isinstance(tiny, own) and type(tiny).__name__ == own.__name__
        tiny.save_pretrained(tmp_path / "saved")
    assert type(tiny) is own
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["_class_name"] == own.__name__


def test_receipt(tiny: Any, policy: dict[str, Any]) -> None:
    with conceptguard.attach(tiny, policy) as guard:
        generate(tiny, [UNRELATED, OPENS], negative_prompt=["", "blurry"], num_inference_steps=3)
        receipt = guard.receipt
        told = json.loads(json.dumps(receipt.to_dict()))
        assert [(r["text"], r["branch"]) for r in told["rows"]] == [
            ("", "unconditional"), ("blurry", "negative"), (UNRELATED, "conditional"), (OPENS, "conditional"),
        ]  # fmt: skip
        (act,) = told["acts"]
        assert act["gates"] == [0, 0, 0, 1] and act["steps"] == [0, 1, 2] and act["layers"] > 0
        assert told["steps"] == 3 and told["policy"] == "test" and told["dtype"] == "float32"
        assert "open 1.00 on 'a cigarette', 3 steps" in str(receipt)
        generate(tiny, UNRELATED)
        assert not guard.receipt.opened and "none of 1 guards acted" in str(guard.receipt)
        assert receipt.opened  # the older receipt is still what it was


def test_user_callback_beside_ours(tiny: Any, policy: dict[str, Any]) -> None:
    """Ours as the callback, theirs as the callback, or one that calls both: the same picture."""
    seen: list[int] = []

    def theirs(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(index)
        return values

    with conceptguard.attach(tiny, policy) as guard:

        def both(*args: Any) -> dict[str, Any]:
            return guard.on_step_end(*args[:3], theirs(*args))

        pictures = [
            generate(tiny, OPENS, callback_on_step_end=callback) for callback in (None, guard.on_step_end, theirs, both)
        ]
    assert all(torch.equal(pictures[0], other) for other in pictures[1:]) and seen == [0, 1, 0, 1]


def test_replaced_parts_are_an_error(tiny: Any, policy: dict[str, Any], tokenizer: Any) -> None:
    from tiny import tiny_sd

    other = tiny_sd(tokenizer, seed=5)
    for part in ("unet", "text_encoder"):
        own = getattr(tiny, part)
        with conceptguard.attach(tiny, policy):
            setattr(tiny, part, getattr(other, part))
            with pytest.raises(GuardError, match=rf"pipe\.{part} was replaced after attaching"):
                generate(tiny, OPENS)
            setattr(tiny, part, own)
            generate(tiny, OPENS)


def test_fused_projections_are_an_error_and_unfusing_mends_it(tiny: Any, policy: dict[str, Any]) -> None:
    with conceptguard.attach(tiny, policy):
        before = generate(tiny, OPENS)
        tiny.fuse_qkv_projections(vae=False)
        with pytest.raises(GuardError, match="did not run, so its guard had no effect: undo what replaced it"):
            generate(tiny, OPENS)
        tiny.unfuse_qkv_projections(vae=False)
        assert torch.equal(generate(tiny, OPENS), before)


def test_custom_loop_is_guarded(tiny: Any, policy: dict[str, Any]) -> None:
    """Calling the UNet without the pipeline: the embeddings that arrive there decide."""
    torch.manual_seed(0)
    latents, t = torch.randn(1, 4, 8, 8), torch.tensor(500)
    embeds = {text: tiny.encode_prompt(text, "cpu", 1, False)[0] for text in (UNRELATED, OPENS)}
    with torch.no_grad():
        bare = {text: tiny.unet(latents, t, e).sample for text, e in embeds.items()}
        with conceptguard.attach(tiny, policy):
            buffer = embeds[UNRELATED].clone()
            assert torch.equal(tiny.unet(latents, t, encoder_hidden_states=buffer).sample, bare[UNRELATED])
            assert not torch.allclose(tiny.unet(latents, t, embeds[OPENS]).sample, bare[OPENS])
            assert torch.equal(tiny.unet(latents, t, buffer).sample, bare[UNRELATED])
            buffer.copy_(embeds[OPENS])  # the same tensor with other content
            assert not torch.allclose(tiny.unet(latents, t, buffer).sample, bare[OPENS])
        assert torch.equal(tiny.unet(latents, t, embeds[OPENS]).sample, bare[OPENS])


def test_exception_leaves_nothing_open(tiny: Any, policy: dict[str, Any]) -> None:
    bare = generate(tiny, UNRELATED)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with conceptguard.attach(tiny, policy) as guard:
        with pytest.raises(KeyboardInterrupt):
            generate(tiny, OPENS, callback_on_step_end=stop)
        assert guard.receipt.steps == 1
        assert all(bank.open is None for bank in guard.banks.banks.values())
        assert torch.equal(generate(tiny, UNRELATED), bare)


def test_failing_guard_gives_no_picture(tiny: Any) -> None:
    message = r"guard .contract-failing. failed \(ZeroDivisionError: on purpose\); nothing was generated: mend"
    with (
        offered(Failing) as guard,
        conceptguard.attach(tiny, {"guards": [guard]}),
        pytest.raises(GuardError, match=message),
    ):
        generate(tiny, UNRELATED)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_strength_is_linear(tiny: Any, policy: dict[str, Any], strength: float) -> None:
    """At one step of the UNet, for the last layer before the output, twice the strength is twice the difference."""
    guard = policy["guards"][0]
    with conceptguard.attach(tiny, {"guards": [{**guard, "strength": strength, "gate": "always"}]}) as session:
        generate(tiny, UNRELATED)
        assert session.receipt.acts[0].gates == [strength, strength]
        assert bool(session.receipt.acts[0].steps) == (strength > 0)


def test_gate_modes(tiny: Any, policy: dict[str, Any]) -> None:
    guard = policy["guards"][0]
    for gate, gates in (("always", [1, 1]), (0.25, [0.25, 0.25]), ("prompt", [0, 0])):
        with conceptguard.attach(tiny, {"guards": [{**guard, "gate": gate}]}) as session:
            generate(tiny, UNRELATED)
            assert session.receipt.acts[0].gates == pytest.approx(gates)


def test_predict_noise_is_told_the_guidance(tiny: Any) -> None:
    told: list[tuple[float, int]] = []

    class Listens(Method):
        name = "listens"
        needs = "nothing"

        @hookimpl
        def predict_noise(self, step: Step) -> None:
            told.append((step.guidance_scale, len(step.prediction)))

    with offered(Listens) as guard, conceptguard.attach(tiny, {"guards": [guard]}):
        generate(tiny, UNRELATED)
        generate(tiny, UNRELATED, guidance_scale=3.0)
        generate(tiny, UNRELATED, guidance_scale=1.0)
    assert told == [(7.5, 2)] * 2 + [(3.0, 2)] * 2 + [(1.0, 1)] * 2


def test_embeddings_that_nobody_read_are_refused_where_the_policy_says_so(tiny: Any, policy: dict[str, Any]) -> None:
    names = ("prompt_embeds", "negative_prompt_embeds")

    def encode() -> dict[str, torch.Tensor]:
        return dict(zip(names, tiny.encode_prompt(OPENS, "cpu", 1, True)))

    before = encode()
    with conceptguard.attach(tiny, {**policy, "unread": "refuse"}):
        assert torch.isfinite(generate(tiny, OPENS)).all()
        assert torch.isfinite(generate(tiny, None, **encode())).all()  # encoded under the policy
    unseen = pytest.raises(Refused, match="row 0 is an embedding whose text policy 'test' has not seen")
    with conceptguard.attach(tiny, {**policy, "unread": "refuse"}), unseen:
        generate(tiny, None, **{name: embeds * 1.01 for name, embeds in before.items()})
    with conceptguard.attach(tiny, policy):
        assert torch.isfinite(generate(tiny, None, **before)).all()


def test_image_to_image_and_inpainting(tiny: Any, policy: dict[str, Any]) -> None:
    picture = Image.fromarray((np.arange(64 * 64 * 3) % 255).astype(np.uint8).reshape(64, 64, 3))
    mask = Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16))
    for cls, extra in (
        (StableDiffusionImg2ImgPipeline, {"image": picture, "strength": 1.0}),
        (
            StableDiffusionInpaintPipeline,
            {"image": picture, "mask_image": mask, "strength": 1.0, "height": 64, "width": 64},
        ),
    ):
        pipe = cls(**tiny.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        bare = {text: generate(pipe, text, **extra) for text in (UNRELATED, OPENS)}
        with conceptguard.attach(pipe, policy) as guard:
            assert torch.equal(generate(pipe, UNRELATED, **extra), bare[UNRELATED])
            assert not torch.allclose(generate(pipe, OPENS, **extra), bare[OPENS])
            assert guard.receipt.opened
            with offered(FlagsApples) as flags:
                guard.detach()
                with conceptguard.attach(pipe, {"on_violation": "black", "guards": [flags]}):
                    assert not generate(pipe, UNRELATED, **{**extra, "output_type": "np"})[:, :, :32].any()


def test_sdxl(tiny_xl: Any, tmp_path: Path) -> None:
    """Two encoders, pooled embeddings: text, embeddings, and terms in the UNet and in both encoders."""
    terms = random_terms(tiny_xl)
    for component in ("text_encoder", "text_encoder_2"):
        terms |= random_terms(tiny_xl, component=component, names=("q_proj", "fc1"))
    policy = {"guards": [{"method": "lora", "artifact": str(write_terms(tmp_path, tiny_xl, terms, method="lora"))}]}
    bare = {text: generate(tiny_xl, text) for text in (UNRELATED, OPENS)}
    both = generate(tiny_xl, [UNRELATED, OPENS])
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeds = dict(zip(names, tiny_xl.encode_prompt(OPENS)))
    with conceptguard.attach(tiny_xl, policy) as guard:
        assert torch.equal(generate(tiny_xl, UNRELATED), bare[UNRELATED])
        alone = generate(tiny_xl, OPENS, seeds=[1])
        got = generate(tiny_xl, [UNRELATED, OPENS])
        assert guard.receipt.acts[0].gates == [0, 0, 0, 1]
        assert torch.equal(got[0], both[0]) and not torch.allclose(got[1], both[1])
        torch.testing.assert_close(got[1], alone[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(generate(tiny_xl, None, **embeds), bare[OPENS])
        changed = tiny_xl.encode_prompt(OPENS)
        assert not torch.allclose(changed[0], embeds["prompt_embeds"])
        assert torch.equal(changed[1], embeds["negative_prompt_embeds"])
    assert torch.equal(generate(tiny_xl, OPENS), bare[OPENS])


def test_artifact_of_another_base_is_refused(tiny: Any, tiny_xl: Any, policy: dict[str, Any]) -> None:
    with pytest.raises(BaseMismatch, match=r"was made for test .* use an artifact made for this base"):
        conceptguard.attach(tiny_xl, policy)
    assert not layers_of(tiny_xl)["unet.conv_in"]._forward_hooks


def test_guards_add_up_whatever_their_order(tiny: Any, policy: dict[str, Any], tmp_path: Path) -> None:
    second = membrane(tmp_path, tiny, "pistol", seed=3)
    guards = [policy["guards"][0], second]
    with offered(Beside) as beside:
        pictures = []
        for order in (guards, guards[::-1], [beside, *guards], [*guards, beside]):
            with conceptguard.attach(tiny, {"guards": order}):
                pictures.append(generate(tiny, "a cigarette and a pistol"))
    torch.testing.assert_close(pictures[0], pictures[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pictures[2], pictures[3], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(pictures[0], pictures[2], atol=1e-3)
