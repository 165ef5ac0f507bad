"""Who may call a denoiser that is under a policy, and whose picture and receipt that is."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DDIMScheduler, StableDiffusionPipeline
from image_guards import FlagsApples
from random_artifacts import membrane
from tiny import generate, tiny_sd

import conceptguard
from conceptguard.errors import GuardError, Refused, SessionError
from conceptguard.testing.kit_guards import Replacing, offered

OPENS, UNRELATED = "a cigarette", "a red apple"


def sharing(pipe: Any) -> Any:
    """Another pipeline on the same UNet, as the README says."""
    own = {"scheduler": DDIMScheduler.from_config(pipe.scheduler.config), "tokenizer": copy.deepcopy(pipe.tokenizer)}
    other = StableDiffusionPipeline(**{**pipe.components, **own}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


OUTSIDERS = {
    "from_pipe": AutoPipelineForText2Image.from_pipe,
    "components": lambda pipe: StableDiffusionPipeline(**pipe.components, requires_safety_checker=False),
    "base class": lambda pipe: lambda **call: StableDiffusionPipeline.__call__(pipe, **call),
}


def draw(pipe: Any, prompt: str = OPENS, **options: Any) -> torch.Tensor:
    """Latents of four steps."""
    return generate(pipe, prompt, num_inference_steps=4, **options)


@pytest.mark.parametrize("how", OUTSIDERS)
def test_other_ways_to_the_unet_are_guarded(how: str, tiny: Any, policy: dict[str, Any]) -> None:
    bare, unrelated = draw(tiny), draw(tiny, UNRELATED)
    with conceptguard.attach(tiny, policy):
        guarded, other = draw(tiny), OUTSIDERS[how](tiny)
        assert torch.equal(draw(other), guarded) and not torch.equal(guarded, bare)
        assert torch.equal(draw(other, UNRELATED), unrelated)
    if how != "base class":
        assert torch.equal(draw(other), bare)


@pytest.mark.parametrize("how", OUTSIDERS)
def test_other_ways_are_refused_where_guards_act_elsewhere(how: str, tiny: Any) -> None:
    """A look at pictures and a reading of prompts cannot be had at the denoiser."""
    with offered(FlagsApples) as flags, conceptguard.attach(tiny, {"on_violation": "flag", "guards": [flags]}) as guard:
        with pytest.raises(GuardError, match="looks at images, and this call of the unet comes from no generation"):
            draw(OUTSIDERS[how](tiny), UNRELATED)
        tiny(UNRELATED, num_inference_steps=2)
        assert len(guard.receipt.verdicts) == 1
    if how != "base class":  # which encodes with the guarded pipeline
        with offered(Replacing) as replaces, conceptguard.attach(tiny, {"guards": [replaces]}):
            with pytest.raises(Refused, match="an embedding that no guard has read"):
                draw(OUTSIDERS[how](tiny))
            embeds = tiny.encode_prompt(OPENS, "cpu", 1, False)[0]
            with torch.no_grad():
                tiny.unet(torch.zeros(1, 4, 8, 8), 500, encoder_hidden_states=embeds)


def test_an_unguarded_pipeline_in_another_thread(tiny: Any, policy: dict[str, Any]) -> None:
    """It is guarded, too, and in no receipt but its own."""
    other = sharing(tiny)
    with conceptguard.attach(tiny, policy) as guard:
        want, stop = draw(tiny), threading.Event()

        def work() -> list[torch.Tensor]:
            found = []
            while not stop.is_set() or not found:
                found.append(draw(other))
            return found

        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(work)
            receipts = []
            for _ in range(12):
                assert torch.equal(draw(tiny), want)
                receipts.append(guard.receipt)
            stop.set()
            assert all(torch.equal(picture, want) for picture in beside.result())
    assert [(r.steps, r.acts[0].steps) for r in receipts] == [(4, [0, 1, 2, 3])] * 12


def test_attaching_is_no_race(tiny: Any, tmp_path: Path) -> None:
    """Of several threads one has the pipeline, and the others an error; no picture is another policy's."""
    policies = [{"guards": [membrane(tmp_path / c, tiny, c, seed=i)]} for i, c in enumerate(("cigarette", "pistol"))]
    prompt, want = "a cigarette, a pistol", []
    for own in policies:
        with conceptguard.attach(tiny, own):
            want.append(draw(tiny, prompt))
    assert not torch.equal(*want)
    bare = draw(tiny, prompt)

    def request(number: int) -> bool | None:
        try:
            with conceptguard.attach(tiny, policies[number % 2]) as guard:
                right = torch.equal(draw(tiny, prompt), want[number % 2])
                return right and guard.receipt.steps == 4
        except SessionError as error:
            assert "already guarded" in str(error)
            return None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(request, range(24)))
    assert True in found and False not in found
    assert torch.equal(draw(tiny, prompt), bare)


def test_one_session_in_several_threads_has_a_receipt_for_each(tiny: Any, policy: dict[str, Any]) -> None:
    with conceptguard.attach(tiny, policy) as guard:

        def work(steps: int) -> list[tuple[int, str | None]]:
            prompt = f"a cigarette {steps}"
            found = []
            for _ in range(4):
                generate(tiny, prompt, num_inference_steps=steps)
                found.append((guard.receipt.steps, guard.receipt.rows[1].text))
            return found

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(2, 6))) == [[(n, f"a cigarette {n}")] * 4 for n in range(2, 6)]


def test_a_call_in_a_callback_is_a_generation_of_its_own(tiny: Any, policy: dict[str, Any]) -> None:
    """Its rows and steps are in its own receipt, and a guard that remembers steps goes on with its own."""
    policy["guards"].append({"method": "sld", "concept": {"name": "c", "prompts": ["cigarette", "pipe"]}})
    with conceptguard.attach(tiny, policy) as guard:
        outer, inner, receipts = draw(tiny, [OPENS, UNRELATED]), draw(tiny), []

        def again(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if index == 1 and not receipts:
                receipts.append(None)
                assert torch.equal(draw(tiny), inner)
                receipts[0] = guard.receipt
            return values

        assert torch.equal(draw(tiny, [OPENS, UNRELATED], callback_on_step_end=again), outer)
        assert [row.text for row in receipts[0].rows] == ["", OPENS] and receipts[0].steps == 4
        assert [row.text for row in guard.receipt.rows] == ["", "", OPENS, UNRELATED] and guard.receipt.steps == 4
        for receipt in (receipts[0], guard.receipt):
            assert [act.steps for act in receipt.acts] == [[0, 1, 2, 3]] * 2


def test_detach_waits_for_a_generation_and_is_refused_inside_of_it(tiny: Any, policy: dict[str, Any]) -> None:
    bare = draw(tiny)
    guard, begun = conceptguard.attach(tiny, policy), threading.Event()
    want = draw(tiny)

    def tell(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        if index == 1:
            with pytest.raises(SessionError, match="cannot be detached in the middle of its own generation"):
                guard.detach()
            other.join(0.05)
            assert guard.attached
        return values

    other = threading.Thread(target=lambda: begun.wait(60) and guard.detach())
    other.start()
    assert torch.equal(draw(tiny, callback_on_step_end=tell), want)
    other.join(60)
    assert not guard.attached and torch.equal(draw(tiny), bare)


def test_a_call_that_waited_past_detach_is_an_error(tiny: Any, policy: dict[str, Any]) -> None:
    guard = conceptguard.attach(tiny, policy)
    with ThreadPoolExecutor(1) as pool:
        with guard.host.turn():
            late = pool.submit(draw, tiny)
            while not guard.host.turn()._waiting:
                pass
            guard.detach()
        with pytest.raises(SessionError, match="not attached any more"):
            late.result(60)


def test_no_step_past_the_guards(tiny: Any, policy: dict[str, Any], tokenizer: Any) -> None:
    """A denoiser that is replaced, or freed of its hooks, in the middle of a generation: no picture."""
    own, other = tiny.unet, tiny_sd(tokenizer, seed=3).unet
    hooks = own._forward_pre_hooks, own._forward_hooks

    def replace(pipe: Any) -> None:
        pipe.unet = other

    for spoil in (replace, lambda pipe: hooks[0].clear(), lambda pipe: (hooks[0].clear(), hooks[1].clear())):

        def cut(pipe: Any, index: int, timestep: Any, values: dict[str, Any], spoil: Any = spoil) -> dict[str, Any]:
            if index == 1:
                spoil(pipe)
            return values

        with conceptguard.attach(tiny, policy) as guard:
            with pytest.raises(GuardError, match="past"):
                draw(tiny, callback_on_step_end=cut)
            assert guard.receipt.steps == 2
        tiny.unet = own
        assert not hooks[0] and not hooks[1] and "step" not in vars(tiny.scheduler)


def through_data(tensor: torch.Tensor, new: torch.Tensor) -> None:
    tensor.data.copy_(new)


def through_numpy(tensor: torch.Tensor, new: torch.Tensor) -> None:
    tensor.numpy()[:] = new.numpy()


def in_inference_mode(tensor: torch.Tensor, new: torch.Tensor) -> None:
    with torch.inference_mode():
        tensor.copy_(new)


@pytest.mark.parametrize("write", [through_data, through_numpy, in_inference_mode])
def test_embeddings_that_change_without_a_count(write: Any, tiny: Any, policy: dict[str, Any]) -> None:
    """Gates are of what a tensor holds, not of what it held."""
    with conceptguard.attach(tiny, policy) as guard, torch.inference_mode(write is in_inference_mode):
        embeds = {text: tiny.encode_prompt(text, "cpu", 1, False)[0] for text in (UNRELATED, OPENS)}
        buffer = embeds[UNRELATED].clone()

        def call() -> list[float]:
            with torch.no_grad():
                tiny.unet(torch.zeros(1, 4, 8, 8), 500, encoder_hidden_states=buffer)
            return guard.receipt.acts[0].gates

        assert call() == [0]
        write(buffer, embeds[OPENS])
        assert call() == [1]
        write(buffer, embeds[UNRELATED])
        assert call() == [0]
