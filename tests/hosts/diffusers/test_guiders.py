"""Guiders of modular pipelines: diffusers' own, which combine predictions in ways of their own, and somebody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import guiders
from diffusers.guiders.guider_utils import GuiderOutput
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from naive_guards import FirstPromptOnly
from random_artifacts import RandomTerms
from test_families import OPENS, UNRELATED, policy
from tiny_modular import draw, modular_sdxl

import conceptguard
from conceptguard.errors import Refused
from conceptguard.hosts.diffusers.modular import scale_of
from conceptguard.testing.kit_guards import offered
from conceptguard.testing.traces import differences, snapshot


def skipped(**settings: Any) -> LayerSkipConfig:
    """A layer of the UNet that a guider leaves out of one of its branches."""
    return LayerSkipConfig(fqn="mid_block.attentions.0.transformer_blocks", indices=[0], **settings)


# Of releases that may be later than the oldest one.
OTHERS = (
    "AdaptiveProjectedMixGuidance", "FrequencyDecoupledGuidance", "MagnitudeAwareGuidance",
    "TangentialClassifierFreeGuidance",
)  # fmt: skip
ALL_STEPS = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
GUIDERS: dict[str, Callable[[], Any]] = {
    "classifier-free": guiders.ClassifierFreeGuidance,
    "from the prompt": lambda: guiders.ClassifierFreeGuidance(guidance_scale=4.0, use_original_formulation=True),
    "first step only": lambda: guiders.ClassifierFreeGuidance(stop=0.5),
    "zero star": lambda: guiders.ClassifierFreeZeroStarGuidance(zero_init_steps=0),
    "adaptive projected": guiders.AdaptiveProjectedGuidance,
    "auto": lambda: guiders.AutoGuidance(auto_guidance_config=skipped()),
    "perturbed attention": lambda: guiders.PerturbedAttentionGuidance(
        perturbed_guidance_config=skipped(skip_attention=False, skip_attention_scores=True, skip_ff=False),
        perturbed_guidance_start=0.0, perturbed_guidance_stop=1.0,
    ),
    "skip layer": lambda: guiders.SkipLayerGuidance(skip_layer_config=skipped(), **ALL_STEPS),
    **{name: getattr(guiders, name) for name in OTHERS if hasattr(guiders, name)},
}  # fmt: skip


@pytest.mark.parametrize("guider", GUIDERS)
@pytest.mark.parametrize("method", ["random-terms", "safree", "sld"])
def test_every_guider(guider: str, method: str, tokenizer: Any) -> None:
    """Each branch is a call; the guard acts on those of its prompt, in whatever number they come."""
    pipe = modular_sdxl(tokenizer)

    def guided(prompts: list[str]) -> torch.Tensor:
        pipe.update_components(guider=GUIDERS[guider]())  # they remember the last step of the last picture
        return draw(pipe, prompts, negative_prompt=["blurry"] * 2)

    settings = {"alpha": 0.0, "schedule": False} if method == "safree" else {}
    try:
        bare, plain = guided([UNRELATED, OPENS]), guided([UNRELATED] * 2)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"unguarded, too, it does not work here: {str(error)[:80]}")
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method, **settings)) as guard:
        got = guided([UNRELATED, OPENS])
        receipt = guard.receipt
        assert torch.equal(guided([UNRELATED] * 2), plain)
        assert not guard.receipt.opened
    assert torch.equal(got[0], bare[0])
    assert not torch.allclose(got[1], bare[1], atol=1e-4)
    gates = {(row.text, row.branch): gate for row, gate in zip(receipt.rows, receipt.acts[0].gates)}
    assert gates == {(UNRELATED, "conditional"): 0, (OPENS, "conditional"): 1, ("blurry", "negative"): 0}
    assert torch.equal(guided([UNRELATED, OPENS]), bare)


def test_no_guider_is_left_out() -> None:
    """Of those that this release has; one without a say of its own about branches has its test below."""
    tried = {type_of(make) for make in GUIDERS.values()} | {"BaseGuidance", "LTX2Guidance", "SmoothedEnergyGuidance"}
    assert {name for name, found in vars(guiders).items() if isinstance(found, type)} <= tried


def type_of(make: Callable[[], Any]) -> str:
    try:
        return type(make()).__name__
    except ImportError as error:
        return str(error).split("`")[1]


@pytest.mark.skipif(not hasattr(guiders, "LTX2Guidance"), reason="this diffusers has no such guider")
@pytest.mark.parametrize("method", ["random-terms", "sld"])
def test_a_guider_that_does_not_tell_its_branches(method: str, tokenizer: Any) -> None:
    """It calls every branch conditional: what was encoded as a negative prompt is one."""
    pipe = modular_sdxl(tokenizer, guiders.LTX2Guidance(guidance_scale=5.0))
    bare = draw(pipe, [UNRELATED, OPENS], negative_prompt=["blurry", "smoking"])
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method)) as guard:
        got = draw(pipe, [UNRELATED, OPENS], negative_prompt=["blurry", "smoking"])
        branches = {(row.text, row.branch) for row in guard.receipt.rows}
    assert {("smoking", "negative"), ("blurry", "negative"), (OPENS, "conditional")} < branches
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)


@pytest.mark.parametrize("guider", ["skip layer", "perturbed attention", "auto"])
def test_a_guider_that_raises_takes_its_hooks_back(guider: str, tokenizer: Any) -> None:
    """In the middle of the branch for which it put them there."""
    pipe = modular_sdxl(tokenizer, GUIDERS[guider]())
    bare, before, left = draw(pipe, UNRELATED), snapshot(pipe), [0]

    def stop(*_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    for call in (1, 2, 5 if guider != "auto" else 4):
        left[0] = call
        with conceptguard.attach(pipe, policy("safree")):
            handle = pipe.unet.register_forward_hook(stop)
            with pytest.raises(KeyboardInterrupt):
                draw(pipe, UNRELATED)
            handle.remove()
        pipe.update_components(guider=GUIDERS[guider]())
        assert torch.equal(draw(pipe, UNRELATED), bare)
    assert not [what for what in differences(before, snapshot(pipe)) if "unet" in what]


def test_attention_is_read_where_a_guider_skips_it(tokenizer: Any) -> None:
    pipe = modular_sdxl(tokenizer, GUIDERS["skip layer"]())
    prompt = "a cigarette and a dog"
    bare = draw(pipe, prompt)
    pipe.update_components(guider=GUIDERS["skip layer"]())
    with conceptguard.attach(pipe, policy("astar", scale=8.0)):
        assert not torch.allclose(draw(pipe, prompt), bare, atol=1e-4)


def test_smoothed_energy_guidance(tokenizer: Any) -> None:
    config = SmoothedEnergyGuidanceConfig(indices=[0], fqn="mid_block.attentions.0.transformer_blocks")
    pipe = modular_sdxl(tokenizer, guiders.SmoothedEnergyGuidance(seg_guidance_config=config))
    bare = draw(pipe, [UNRELATED, OPENS])
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")) as guard:
        got = draw(pipe, [UNRELATED, OPENS])
        assert guard.receipt.steps == 5, "two branches, three in the second step"
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)


@pytest.mark.parametrize("guider", [
    lambda: guiders.ClassifierFreeGuidance(guidance_scale=0.0),
    lambda: guiders.ClassifierFreeGuidance(guidance_scale=-3.0),
    lambda: guiders.ClassifierFreeGuidance(guidance_scale=-1.0, use_original_formulation=True),
    lambda: guiders.ClassifierFreeGuidance(guidance_scale=0.3, stop=0.5),
    lambda: guiders.TangentialClassifierFreeGuidance(guidance_scale=0.0),
    lambda: guiders.AdaptiveProjectedGuidance(eta=-8.0),
])  # fmt: skip
@pytest.mark.parametrize("method", ["safree", "sld"])
def test_a_guider_that_draws_its_negative_prompt(guider: Any, method: str, tokenizer: Any) -> None:
    pipe = modular_sdxl(tokenizer, guider())
    settings = {"alpha": 0.0, "schedule": False, "positions": "all"} if method == "safree" else {}
    bare = draw(pipe, UNRELATED, negative_prompt=OPENS)
    with conceptguard.attach(pipe, policy(method, **settings)) as guard:
        pipe.update_components(guider=guider())  # they remember the last step of the last picture
        got = draw(pipe, UNRELATED, negative_prompt=OPENS)
        gates = {row.branch: gate for row, gate in zip(guard.receipt.rows, guard.receipt.acts[0].gates)}
    assert gates == {"conditional": 0, "negative": 1}
    assert not torch.allclose(got, bare, atol=1e-4)


@pytest.mark.parametrize(("guider", "scale"), [
    (guiders.ClassifierFreeGuidance, 7.5), (guiders.AdaptiveProjectedGuidance, 7.5),
    (guiders.AdaptiveProjectedMixGuidance, 10.0),
    (lambda: guiders.ClassifierFreeGuidance(guidance_scale=2.0, guidance_rescale=0.7), 2.0),
    (lambda: guiders.ClassifierFreeGuidance(guidance_scale=2.0, guidance_rescale=9.0), None),
    (lambda: guiders.ClassifierFreeGuidance(guidance_scale=0.0, use_original_formulation=True), 1.0),
    (lambda: guiders.AdaptiveProjectedGuidance(adaptive_projected_guidance_rescale=1e-4), None),
])  # fmt: skip
def test_what_share_of_a_guiders_picture_is_the_prompts(guider: Any, scale: float | None) -> None:
    assert scale_of(guider()) == scale


def test_another_guider_after_attaching_is_fine(tokenizer: Any) -> None:
    sdxl = modular_sdxl(tokenizer)
    with offered(RandomTerms), conceptguard.attach(sdxl, policy("random-terms")) as guard:
        sdxl.update_components(guider=GUIDERS["skip layer"]())
        draw(sdxl, OPENS)
        assert guard.receipt.steps == 5, "two branches, three in the second step"
        assert guard.receipt.acts[0].steps == [0, 2, 4]


class Arithmetic(guiders.ClassifierFreeGuidance):
    """Somebody's own guider: one picture from the predictions of three prompts, ε(a) + w(ε(b) − ε(c))."""

    def forward(self, pred_cond: torch.Tensor, pred_uncond: Any = None) -> GuiderOutput:
        a, b, c = pred_cond.split(1)
        return GuiderOutput(pred=(a + 4 * (b - c)).expand_as(pred_cond), pred_cond=pred_cond, pred_uncond=None)


class Towards(guiders.ClassifierFreeGuidance):
    """Somebody's own guider that draws what was given as the negative prompt."""

    def forward(self, pred_cond: torch.Tensor, pred_uncond: Any = None) -> GuiderOutput:
        return GuiderOutput(pred=pred_uncond, pred_cond=pred_cond, pred_uncond=pred_uncond)


HARMLESS = "a man"
COMPOSED: dict[str, tuple[Callable[[], Any], Callable[[str], dict[str, Any]]]] = {
    "several prompts": (lambda: Arithmetic(guidance_scale=1.0), lambda b: {"prompts": [HARMLESS, b, UNRELATED]}),
    "negative prompt": (Towards, lambda b: {"prompts": HARMLESS, "negative_prompt": b}),
}


@pytest.mark.parametrize("way", COMPOSED)
@pytest.mark.parametrize("method", ["random-terms", "safree", "negative_guidance"])
def test_a_guider_of_ones_own_composes_what_it_likes(way: str, method: str, tokenizer: Any) -> None:
    """Past a filter of the first prompt the concept gets into the picture; past a guard of every condition, not."""
    guider, call = COMPOSED[way]
    pipe = modular_sdxl(tokenizer, guider())
    attacked, harmless = draw(pipe, **call(OPENS)), draw(pipe, **call("a small dog"))
    assert not torch.allclose(attacked, harmless, atol=1e-2)
    with offered(FirstPromptOnly), conceptguard.attach(pipe, policy("first-prompt-only")):
        assert torch.equal(draw(pipe, **call(OPENS)), attacked)
        with pytest.raises(Refused):
            draw(pipe, [OPENS] * 3)
    settings = {"alpha": 0.0, "schedule": False, "positions": "all"} if method == "safree" else {}
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method, **settings)) as guard:
        got = draw(pipe, **call(OPENS))
        gates = {row.text: gate for row, gate in zip(guard.receipt.rows, guard.receipt.acts[0].gates)}
        assert gates[OPENS] == 1 and gates[HARMLESS] == 0
        assert torch.equal(draw(pipe, **call("a small dog")), harmless)
    assert not torch.allclose(got, attacked, atol=1e-3)
