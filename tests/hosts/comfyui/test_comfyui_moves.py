"""Latents that a guard moves in ComfyUI: model and sampler go on from them as if they had been there all along."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import SHAPE, encode, sample
from torch import Tensor

from conceptguard import Method, attach, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.denoising import Conditions
from conceptguard.testing.kit_guards import offered

SMOKING, APPLE = "a man smoking a cigarette, noto style", "a red apple, noto style"
BY = 0.3 * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2))


class Nudge(Method):
    """Adds BY in the first call of the first step to what the rows of a cigarette are denoised from."""

    name = "nudge"
    needs = "nothing"

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        rows = [row for row in conditions.towards if "cigarette" in (conditions.texts[row] or "")]
        if rows and conditions.moment.step == conditions.moment.within == 0:
            assert conditions.latents is not None
            *_, height, width = conditions.latents.shape
            conditions.move(rows, BY[..., :height, :width].expand(len(rows), -1, -1, -1))


@pytest.fixture(scope="module")
def conds(bare: Any) -> Any:
    return {text: bare.encode(text) for text in (SMOKING, APPLE, "")}


@pytest.fixture
def nudged(parts: Any) -> Any:
    with offered(Nudge) as guard:
        session = attach((parts.model, parts.clip), {"guards": [guard]})
        session.host.candidates = lambda: [SMOKING, APPLE, ""]
        yield session.host.guarded()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has samplings begin BY farther."""
    import comfy.sample

    own = comfy.sample.prepare_noise

    def move() -> None:
        monkeypatch.setattr(comfy.sample, "prepare_noise", lambda *args: own(*args) + BY)

    return move


@pytest.mark.parametrize(
    "sampler",
    ["euler", "euler_cfg_pp", "euler_ancestral", "heun", "dpm_2", "lms", "dpm_fast", "dpmpp_2m", "dpmpp_3m_sde", "ddpm",
     "ipndm", "res_multistep", "er_sde", "seeds_3", "sa_solver", "ddim"],
)  # fmt: skip
def test_a_step_from_moved_latents_is_one_from_other_latents(
    sampler: str, parts: Any, conds: Any, nudged: Any, elsewhere: Any
) -> None:
    got = sample(nudged, conds[SMOKING], conds[""], sampler=sampler, batch=2)
    bare = sample(parts.model, conds[SMOKING], conds[""], sampler=sampler, batch=2)
    same = sample(nudged, conds[APPLE], conds[""], sampler=sampler)
    assert torch.equal(same, sample(parts.model, conds[APPLE], conds[""], sampler=sampler))
    elsewhere()
    want = sample(parts.model, conds[SMOKING], conds[""], sampler=sampler, batch=2)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    assert (bare - want).abs().max() > 0.01 * want.abs().max()


@pytest.mark.slow  # a minute
def test_every_sampler_of_this_core(parts: Any, conds: Any, nudged: Any, elsewhere: Any) -> None:
    import comfy.samplers

    got, refused = {}, set()
    for sampler in comfy.samplers.SAMPLER_NAMES:
        try:
            got[sampler] = sample(nudged, conds[SMOKING], conds[""], sampler=sampler)
        except GuardError:
            refused.add(sampler)
    assert refused <= {"uni_pc", "uni_pc_bh2", "dpm_adaptive"} and len(got) > 30
    elsewhere()
    for sampler, latents in got.items():
        want = sample(parts.model, conds[SMOKING], conds[""], sampler=sampler)
        assert (latents - want).abs().max() < 2e-4 * want.abs().max(), sampler


@pytest.mark.parametrize("sampler", ["uni_pc", "dpm_adaptive"])
def test_samplers_that_keep_their_latents_to_themselves(sampler: str, nudged: Any, conds: Any) -> None:
    with pytest.raises(GuardError, match="a copy of them: use another one"):
        sample(nudged, conds[SMOKING], conds[""], sampler=sampler)


def test_branches_in_calls_of_their_own(
    parts: Any, conds: Any, nudged: Any, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory is short: the row that guidance takes a picture away from moves with it."""
    monkeypatch.setattr("comfy.samplers.can_concat_cond", lambda one, other: one is other)
    got = sample(nudged, conds[SMOKING], conds[""])
    assert nudged.attachments["conceptguard"].receipt.steps == 6, "two calls a step"
    elsewhere()
    assert (got - sample(parts.model, conds[SMOKING], conds[""])).abs().max() < 1e-3


def test_inpainting(parts: Any, conds: Any, nudged: Any, elsewhere: Any) -> None:
    """What is drawn moves, what is kept does not."""
    start = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    got = sample(nudged, conds[SMOKING], conds[""], latent=start, noise_mask=mask, steps=4)
    bare = sample(parts.model, conds[SMOKING], conds[""], latent=start, noise_mask=mask, steps=4)
    assert (got - start)[..., :7].abs().max() < 1e-4 and not torch.equal(got, bare)


def test_a_condition_for_an_area(conds: Any, nudged: Any) -> None:
    half = [[cond, {**more, "area": (16, 8, 0, 0), "strength": 1.0}] for cond, more in conds[SMOKING]]
    with pytest.raises(GuardError, match="a part of the picture"):
        sample(nudged, half, conds[""])


def test_a_sampler_of_its_own(conds: Any, nudged: Any) -> None:
    """One that is none of ComfyUI's shows its latents to nobody."""
    import comfy.samplers

    class Own(comfy.samplers.Sampler):
        def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: Any, *args: Any, **kwargs: Any) -> Tensor:
            return model_wrap(torch.ones(1, *SHAPE), sigmas[:1], **extra_args)

    guider = comfy.samplers.CFGGuider(nudged)
    guider.set_conds(conds[SMOKING], conds[""])
    guider.set_cfg(3.5)
    with torch.inference_mode(), pytest.raises(GuardError, match="keeps them to itself"):
        guider.sample(
            torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE), Own(), torch.tensor([9.0, 0.0]), disable_pbar=True
        )


def test_weights_loaded_as_a_server_loads_them(comfy: None) -> None:
    """Gradients go through weights that were made in inference mode."""
    from conceptguard.hosts.comfyui.load import load_parts

    guard = {"method": "astar", "concept": {"name": "cigarette", "prompts": ["cigarette"]}}
    with torch.inference_mode():
        parts = load_parts("emoji-sd")
        assert next(parts.model.model.diffusion_model.parameters()).is_inference()
        c = {text: encode(parts.clip, text) for text in (SMOKING, "")}
        session = attach((parts.model, parts.clip), {"guards": [guard]})
        session.host.candidates = lambda: [SMOKING, ""]
        out = sample(session.host.guarded(), c[SMOKING], c[""])
    assert session.receipt.opened and not torch.equal(out, sample(parts.model, c[SMOKING], c[""]))
    assert all(p.is_inference() for p in parts.model.model.diffusion_model.parameters()), "the model's own again"
