"""Modular pipelines: what differs from classic ones, on tiny pipelines with random weights.

The promises of the contract on them are in ``test_families``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import guiders
from diffusers.modular_pipelines import FluxAutoBlocks, FluxModularPipeline, StableDiffusionXLAutoBlocks
from random_artifacts import RandomTerms, membrane, random_terms, write_terms
from test_families import OPENS, UNRELATED, policy
from tiny_modular import draw, modular, modular_flux, modular_sdxl
from tiny_transformers import tiny_flux

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import Clarification, GuardError, SessionError
from conceptguard.generation.conditioning import Prompts
from conceptguard.generation.images import Images
from conceptguard.receipt import Verdict
from conceptguard.testing.kit_guards import offered
from conceptguard.testing.traces import differences, snapshot


@pytest.fixture
def sdxl(tokenizer: Any) -> Any:
    return modular_sdxl(tokenizer)


@pytest.fixture(params=[modular_sdxl, modular_flux])
def either(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return request.param(tokenizer)


@pytest.mark.parametrize("prompt,negative,branches", [
    ("a dog", None, ["conditional", "unconditional"]),
    ("a dog", "", ["conditional", "unconditional"]),
    ("a dog", "a cat", ["conditional", "negative"]),
    ("", "", ["conditional", "unconditional"]),
    (OPENS, OPENS, ["conditional", "negative"]),
])  # fmt: skip
def test_branches(sdxl: Any, prompt: str, negative: str | None, branches: list[str]) -> None:
    """The guider says which of two embeddings that are alike is the negative one."""
    with offered(RandomTerms), conceptguard.attach(sdxl, policy("random-terms")) as guard:
        draw(sdxl, prompt, negative_prompt=negative)
        assert [row.branch for row in guard.receipt.rows] == branches
        assert guard.receipt.steps == 4


def test_without_guidance_there_is_no_other_branch(tokenizer: Any) -> None:
    pipe = modular_sdxl(tokenizer, guiders.ClassifierFreeGuidance(guidance_scale=1.0))
    bare = draw(pipe, UNRELATED)
    with conceptguard.attach(pipe, policy("sld")) as guard:
        assert torch.equal(draw(pipe, UNRELATED), bare)
        assert [row.branch for row in guard.receipt.rows] == ["conditional"]
        with pytest.raises(GuardError, match="needs classifier-free guidance"):
            draw(pipe, OPENS)


def test_what_needs_both_branches_in_one_call_says_so(sdxl: Any, tmp_path: Any) -> None:
    guard = membrane(tmp_path, sdxl)
    with conceptguard.attach(sdxl, {"guards": [guard]}):
        draw(sdxl, OPENS)
    before = snapshot(sdxl)
    with pytest.raises(SessionError, match="compat: official"):
        conceptguard.attach(sdxl, {"guards": [{**guard, "compat": "official"}]})
    assert not differences(before, snapshot(sdxl))
    with conceptguard.attach(sdxl, policy("safree", negative_prompt=True, projection=False)):
        with pytest.raises(GuardError, match="in one call"):
            draw(sdxl, OPENS)
        draw(sdxl, UNRELATED)


def test_flux_has_one_branch(tokenizer: Any) -> None:
    pipe = modular_flux(tokenizer)
    with conceptguard.attach(pipe, policy("sld")), pytest.raises(GuardError, match="needs classifier-free guidance"):
        draw(pipe, OPENS)


def test_it_is_the_classic_pipelines_guard(tokenizer: Any) -> None:
    """FLUX, same weights, same noise: the same picture from both kinds of pipelines."""
    from tiny_transformers import generate

    pipe = modular_flux(tokenizer)
    with offered(RandomTerms):
        with conceptguard.attach(pipe, policy("random-terms")):
            got = draw(pipe, OPENS)
        classic = tiny_flux(tokenizer)
        with conceptguard.attach(classic, policy("random-terms")):
            packed = generate(classic, [OPENS], guidance_scale=3.5)
    unpacked = packed.view(1, 8, 8, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 16, 16)
    torch.testing.assert_close(got, unpacked)


def test_terms_in_text_encoders(sdxl: Any, tmp_path: Any) -> None:
    terms = random_terms(sdxl, component="text_encoder", names=("q_proj", "fc1"), rank=2)
    folder = write_terms(tmp_path / "lora", sdxl, terms, method="lora")
    bare = draw(sdxl, [UNRELATED, OPENS])
    with conceptguard.attach(sdxl, {"guards": [{"method": "lora", "artifact": str(folder)}]}):
        got = draw(sdxl, [UNRELATED, OPENS])
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)


class SaysDog(Method):
    """Encodes a dog instead of the concept."""

    name = "says-dog"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        for row, text in enumerate(prompts.texts):
            if text == OPENS:
                prompts.rewrite(row, "a small dog")


def test_a_prompt_can_be_rewritten(either: Any) -> None:
    dog, apple = draw(either, "a small dog"), draw(either, UNRELATED)
    with offered(SaysDog) as guard, conceptguard.attach(either, {"guards": [guard]}):
        torch.testing.assert_close(draw(either, OPENS), dog)
        assert torch.equal(draw(either, UNRELATED), apple)


def test_clarify_asks(either: Any) -> None:
    words = {"smoke": {"a cigarette": ["man"], "a chimney": ["house"]}}
    with conceptguard.attach(either, policy("clarify", words=words)), pytest.raises(Clarification, match="smoke"):
        draw(either, "some smoke")


class SecondLooksBad(Method):
    """Flags the second image of a call; of the third attempt none."""

    name = "second-looks-bad"
    needs = "nothing"
    looks = 0

    @hookimpl
    def check_image(self, images: Images) -> None:
        assert images.prompts == [UNRELATED, OPENS] and 0 <= images.pixels.min() <= images.pixels.max() <= 1
        self.looks += 1
        bad = 1 if self.looks % 3 else None
        images.verdicts += [Verdict(i, self.guard.label, "second", 0.5, i == bad) for i in range(len(images.pixels))]


def looks(action: str = "black") -> dict[str, Any]:
    return {"name": "t", "on_violation": action, "guards": [{"method": "second-looks-bad"}]}


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_flagged_images_go_black(either: Any, output_type: str) -> None:
    """After the decoder block; and a state does not bring the image out as latents."""
    bare = draw(either, [UNRELATED, OPENS], output_type=output_type)
    with offered(SecondLooksBad), conceptguard.attach(either, looks()) as guard:
        state = draw(either, [UNRELATED, OPENS], output_type=output_type, output=None)
        assert [v.flagged for v in guard.receipt.verdicts] == [False, True] and guard.receipt.action == "black"
    first, second = state.images
    assert np.array_equal(np.asarray(first), np.asarray(bare[0])) and not np.asarray(second).any()
    assert state.latents is None and state.output_type == output_type


def test_flagged_images_are_drawn_again(either: Any) -> None:
    bare = draw(either, [UNRELATED, OPENS], output_type="pt")
    with offered(SecondLooksBad), conceptguard.attach(either, looks("retry")) as guard:
        got = draw(either, [UNRELATED, OPENS], output_type="pt")
        assert guard.receipt.retries == 2 and not any(v.flagged for v in guard.receipt.verdicts)
    assert torch.equal(got[0], bare[0]) and got[1].any() and not torch.allclose(got[1], bare[1], atol=1e-2)


@pytest.mark.parametrize("asked", [{"output_type": "latent"}, {"output_type": "pil", "output": "latents"}])
def test_latents_are_no_way_around_a_look(either: Any, asked: dict[str, Any]) -> None:
    told = pytest.raises(GuardError, match="looks at images")
    with offered(SecondLooksBad), conceptguard.attach(either, looks()), told:
        draw(either, [UNRELATED, OPENS], **asked)


def test_a_look_needs_a_decoder(tokenizer: Any) -> None:
    blocks = StableDiffusionXLAutoBlocks()
    blocks.sub_blocks.pop("decode")
    pipe = modular_sdxl(tokenizer, blocks=blocks)
    told = pytest.raises(GuardError, match="no block of this pipeline decoded")
    with offered(SecondLooksBad), conceptguard.attach(pipe, looks()), told:
        draw(pipe, [UNRELATED, OPENS], output=None)


@pytest.mark.parametrize("make", [modular_sdxl, modular_flux])
def test_what_would_encode_past_the_guards_attaches_nothing(make: Callable[..., Any], tokenizer: Any) -> None:
    """A pipeline of denoising blocks alone, for embeddings from elsewhere."""
    blocks = StableDiffusionXLAutoBlocks() if make is modular_sdxl else FluxAutoBlocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = make(tokenizer, blocks=blocks)
    before = snapshot(pipe)
    with pytest.raises(SessionError, match="none of its blocks encodes prompts"):
        conceptguard.attach(pipe, policy("safree"))
    assert not differences(before, snapshot(pipe))


def test_blocks_alone_are_no_pipeline(tokenizer: Any) -> None:
    with pytest.raises(SessionError, match="cannot guard"):
        conceptguard.attach(StableDiffusionXLAutoBlocks().sub_blocks["decode"].init_pipeline(), policy("safree"))


def test_parts_changed_after_attaching_are_an_error(sdxl: Any, tokenizer: Any) -> None:
    with conceptguard.attach(sdxl, policy("safree")):
        own, sdxl.unet = sdxl.unet, modular_sdxl(tokenizer).unet
        with pytest.raises(GuardError, match="unet was replaced"):
            draw(sdxl, UNRELATED)
        sdxl.unet = own
        sdxl._blocks.sub_blocks["text_encoder"] = StableDiffusionXLAutoBlocks().sub_blocks["text_encoder"]
        with pytest.raises(GuardError, match="blocks were changed"):
            draw(sdxl, UNRELATED)


def test_blocks_are_shared_with_pipelines_that_stay_unguarded(tokenizer: Any) -> None:
    """FLUX pipelines made of the default blocks have the same ones."""

    def fresh() -> dict[str, Any]:
        return {name: part for name, part in tiny_flux(tokenizer).components.items() if part is not None}

    one, other = FluxModularPipeline(), FluxModularPipeline()
    one.update_components(**fresh())
    other.update_components(**fresh())
    shared = one._blocks.sub_blocks["text_encoder"]
    assert shared is other._blocks.sub_blocks["text_encoder"]
    bare = draw(other, OPENS)
    with offered(RandomTerms), conceptguard.attach(one, policy("random-terms")):
        assert torch.equal(draw(other, OPENS), bare)
        assert not torch.allclose(draw(one, OPENS), bare, atol=1e-4)
        copies = one.blocks.sub_blocks
        assert type(copies["text_encoder"]) is type(shared), "a copy of guarded blocks is nobody's"
        again = modular(one.blocks, fresh())
        assert torch.equal(draw(again, OPENS), bare)
        with pytest.raises(SessionError, match="already guarded"):
            conceptguard.attach(one, policy("random-terms"))
    assert one._blocks.sub_blocks["text_encoder"] is shared


def test_a_pooled_vector_of_another_prompt_is_read_too(sdxl: Any) -> None:
    """Diffusers 0.42 pairs the pooled vectors of several prompts with the wrong images when there are two of each."""
    prompts, two = [UNRELATED, OPENS], {"num_images_per_prompt": 2}
    bare = draw(sdxl, prompts, **two)
    with offered(RandomTerms), conceptguard.attach(sdxl, policy("random-terms")) as guard:
        got = draw(sdxl, prompts, **two)
        texts = [row.text for row in guard.receipt.rows[:4]]
        gates = guard.receipt.acts[0].gates[:4]
    if texts == [UNRELATED] * 2 + [OPENS] * 2:
        pytest.skip("this diffusers pairs them rightly")
    assert texts == [UNRELATED, f"{UNRELATED}, {OPENS}", f"{OPENS}, {UNRELATED}", OPENS]
    assert gates == [0, 1, 1, 1] and torch.equal(got[0], bare[0])
    assert not any(torch.allclose(got[i], bare[i], atol=1e-4) for i in (1, 2, 3))
