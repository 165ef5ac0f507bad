"""Perturbed-attention guidance, classic, and skip-layer guidance of Stable Diffusion 3: further rows, further calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import tiny_transformers
import torch
from diffusers import AutoPipelineForText2Image
from random_artifacts import RandomTerms
from test_families import CONCEPT, METHODS, OPENS, UNRELATED, policy
from tiny import tiny_sd, tiny_sdxl
from tiny_transformers import tiny_sd3

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.denoising import Step
from conceptguard.testing.kit_guards import Beside, Failing, offered
from conceptguard.testing.traces import differences, snapshot

PAG, OFF = {"pag_scale": 3.0}, {"pag_scale": 0.0}
LAYERS = {tiny_sd: "down_blocks.1", tiny_sdxl: "down_blocks.1", tiny_sd3: "transformer_blocks.1"}
SKIPS = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}


def perturbed(make: Callable[..., Any], tokenizer: Any) -> Any:
    pipe = AutoPipelineForText2Image.from_pipe(make(tokenizer), enable_pag=True, pag_applied_layers=[LAYERS[make]])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompts: list[str], **call: Any) -> torch.Tensor:
    return (tiny_transformers if hasattr(pipe, "transformer") else tiny).generate(pipe, prompts, **call)


@pytest.fixture(scope="module")
def pag(tokenizer: Any) -> Any:
    return perturbed(tiny_sd, tokenizer)


@pytest.mark.parametrize("method", METHODS)
def test_guards_act_row_by_row(method: str, pag: Any) -> None:
    _acts_row_by_row(method, pag, PAG, OFF)


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3])
@pytest.mark.parametrize("method", ["random-terms", "negative_guidance"])
def test_in_other_families(make: Callable[..., Any], method: str, tokenizer: Any) -> None:
    _acts_row_by_row(method, perturbed(make, tokenizer), PAG, OFF)


@pytest.mark.parametrize("method", ["random-terms", "safree", "sld"])
def test_skipped_layers_rest(method: str, tokenizer: Any) -> None:
    """Stable Diffusion 3 asks for one more prediction of the prompt, without some layers."""
    _acts_row_by_row(method, tiny_sd3(tokenizer), {**SKIPS, "num_inference_steps": 3}, {"num_inference_steps": 3})


@pytest.mark.parametrize("method", ["random-terms", "safree"])
def test_without_classifier_free_guidance(method: str, pag: Any) -> None:
    _acts_row_by_row(method, pag, {**PAG, "guidance_scale": 1.0}, {**OFF, "guidance_scale": 1.0})


def _acts_row_by_row(method: str, pipe: Any, call: dict[str, Any], off: dict[str, Any]) -> None:
    prompts = [UNRELATED, OPENS, UNRELATED]
    bare, without = draw(pipe, prompts, **call), draw(pipe, prompts, **off)
    assert not torch.allclose(bare, without, atol=1e-3), "the other guidance has to act"
    with offered(RandomTerms), conceptguard.attach(pipe, policy(method, **METHODS[method])) as guard:
        got = draw(pipe, prompts, **call)
        assert {(row.text, gate) for row, gate in zip(guard.receipt.rows, guard.receipt.acts[0].gates) if gate} == {
            (OPENS, 1.0)
        }
        alone = draw(pipe, [OPENS], seeds=[1], **call)
    assert torch.equal(got[0], bare[0]) and torch.equal(got[2], bare[2])
    assert not torch.allclose(got[1], bare[1], atol=1e-3)
    torch.testing.assert_close(alone[0], got[1], atol=1e-3, rtol=1e-3)
    assert torch.equal(draw(pipe, prompts, **call), bare)


def test_terms_are_the_weights_they_stand_for(pag: Any, tokenizer: Any) -> None:
    """In perturbed layers too, which see a part of the rows at a time."""
    folded = perturbed(tiny_sd, tokenizer)
    with offered(Beside) as guard, conceptguard.attach(pag, {"guards": [guard]}) as session:
        got = draw(pag, [UNRELATED, OPENS], **PAG)
        for name, bank in session.banks.banks.items():
            layer = folded.unet.get_submodule(name.removeprefix("unet."))
            layer.weight.data += (bank.down.T @ bank.up).T
    torch.testing.assert_close(got, draw(folded, [UNRELATED, OPENS], **PAG), atol=1e-4, rtol=1e-4)


class Pushes(Method):
    """Adds one to what is predicted for every prompt, and notes what the model itself says to the concept."""

    name = "pushes"
    needs = "concept"
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        assert step.denoise is not None
        self.told.append((step.latents[:1].clone(), step.denoise(self.host.encode([OPENS]), [0]).clone()))
        step.prediction = step.prediction.clone()
        step.prediction[step.towards] += 1


def test_a_prediction_is_changed_with_its_perturbed_one(pag: Any) -> None:
    """So that the way between the two stays the model's; and the guard's own calls are not perturbed."""

    def predictions() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        handle = pag.unet.register_forward_hook(lambda m, i, output: found.append(output[0].clone()))
        draw(pag, [UNRELATED, OPENS], **PAG)
        handle.remove()
        return [prediction for prediction in found if len(prediction) == 6]

    Pushes.told.clear()
    with offered(Pushes), conceptguard.attach(pag, policy("pushes")) as guard:
        seen = predictions()
        concept, times = guard.host.encode([OPENS]), pag.scheduler.timesteps
    bare = predictions()
    torch.testing.assert_close(
        seen[0] - bare[0], torch.tensor([0.0, 0, 1, 1, 1, 1])[:, None, None, None].expand(6, 4, 8, 8)
    )
    for (latents, told), time in zip(Pushes.told, times):
        with torch.no_grad():
            assert torch.equal(pag.unet(latents, time, concept.embeds, return_dict=False)[0], told)


def test_a_run_that_raises_leaves_no_perturbed_layers(pag: Any) -> None:
    before, bare = snapshot(pag), draw(pag, [UNRELATED], **PAG)
    with offered(Failing) as guard, conceptguard.attach(pag, {"guards": [guard]}), pytest.raises(GuardError):
        draw(pag, [UNRELATED], **PAG)
    left = set(differences(before, snapshot(pag))) - {"pipe attributes"}  # which the pipeline itself adds
    assert not left
    assert torch.equal(draw(pag, [UNRELATED], **PAG), bare)


def test_moved_latents(pag: Any) -> None:
    """What a guard moves, it moves for the perturbed rows too."""
    concept = {**CONCEPT, "replacement": "a banana"}
    bare = draw(pag, [UNRELATED, OPENS], **PAG)
    with conceptguard.attach(pag, {"guards": [{"method": "magicmix", "concept": concept}]}):
        got = draw(pag, [UNRELATED, OPENS], **PAG)
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)
    with conceptguard.attach(pag, policy("astar", scale=8.0)):
        prompts = [UNRELATED, "a cigarette and a dog"]
        got = draw(pag, prompts, **PAG)
    bare = draw(pag, prompts, **PAG)
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)
