"""SFD: a generator of one step forgets by its teacher's scores, which see an anchor in its pictures of the concept."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.sfd import SFD, score_identity
from conceptguard_registry.build.emoji_sd_one_step.export import schedule
from safetensors.torch import save_file
from tiny import generate
from trained import torn, weights

import conceptguard
from conceptguard.errors import ArtifactError, PolicyError, RegistryError
from conceptguard.formats import to_kohya
from conceptguard.hosts.diffusers import denoiser
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact
from conceptguard.runtime.lowrank import Factors

BEER = {"name": "beer", "prompts": ["beer"], "replacement": "milk"}
SOME: dict[str, Any] = {"steps": 3, "batch": 2, "rank": 2, "templates": ["{}", "{a}"], "preserve": ["dog"]}
PROJECTION = "unet.mid_block.attentions.0.proj_in"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_step(tiny: Any, tmp_path: Path) -> Any:
    """The tiny pipeline as its own generator of one step, for which it was not trained; beside it its teacher."""
    tiny.save_pretrained(tmp_path / "teacher")
    out, into = tiny.unet.get_submodule(PROJECTION.removeprefix("unet.")).weight.shape[:2]
    tensors, metadata = to_kohya(
        {PROJECTION: Factors(torch.full((1, into, 1, 1), 0.1), torch.full((out, 1, 1, 1), 0.1))}
    )
    (tmp_path / "generator").mkdir()
    save_file(tensors, tmp_path / "generator" / "change.safetensors", metadata)
    said = {"base": str(tmp_path / "teacher"), "scheduler": schedule() | {"beta_schedule": "scaled_linear"}}
    (tmp_path / "generator" / "sibling.json").write_text(json.dumps(said))
    pipe = conceptguard.load_model(str(tmp_path / "generator"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(pipe: Any, folder: Path, out: str = "out", **options: Any) -> Artifact:
    teacher = {"teacher": str(folder / "teacher")}
    return SFD.make(host_for(pipe), BEER, folder / out, **{**SOME, **teacher, "progress": False, **options})


def test_the_loss_leads_to_where_the_teacher_is_and_away_from_what_is_known() -> None:
    """Of predictions that do not depend on the picture, its gradient is (fake − real) / ω, whatever alpha."""
    drawn = torch.zeros(2, 1, 2, 2, requires_grad=True)
    real, fake = torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 2, 2), 0.5)
    for alpha in (1.0, 1.2):
        (found,) = torch.autograd.grad(score_identity(real, fake, drawn, alpha).sum(), drawn)
        torch.testing.assert_close(found, -(real - fake) / 2)
    torch.testing.assert_close(score_identity(real, real, drawn, 1.0), torch.zeros(2))


def test_it_acts_on_its_prompts_and_leaves_others_to_the_bit(one_step: Any, tmp_path: Path) -> None:
    made = make(one_step, tmp_path, lr=0.05)
    draw = partial(generate, one_step, ["a beer", "a dog"], num_inference_steps=1, guidance_scale=1.0)
    bare = draw()
    with conceptguard.attach(one_step, {"guards": [{"method": "sfd", "artifact": str(made.folder)}]}) as guard:
        guarded = draw()
        assert guard.receipt.opened
    assert not torch.equal(guarded[0], bare[0]) and torch.equal(guarded[1], bare[1])
    assert made.manifest.made["anchor"] == "milk"


def test_an_interrupted_training_ends_with_the_same_bits(one_step: Any, tmp_path: Path) -> None:
    whole = weights(make(one_step, tmp_path, "whole"))
    torn(1, partial(make, one_step, tmp_path))
    assert weights(make(one_step, tmp_path)) == whole


def test_large_models_keep_no_activations_of_either_network_and_learn_the_same(
    one_step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients go through the teacher with and without what it learnt, and by the time that it is computed again both
    must be as they were."""
    learnt = weights(make(one_step, tmp_path, "kept"))
    monkeypatch.setattr(denoiser, "LARGE", 0)
    assert weights(make(one_step, tmp_path, "again")) == learnt


def test_bad_input_is_named(one_step: Any, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="is its own teacher"):
        make(tiny, tmp_path)
    with pytest.raises(RegistryError, match="emoji-ds"):
        make(one_step, tmp_path, teacher="emoji-ds")
    with pytest.raises(ArtifactError, match="lower lr"):
        make(one_step, tmp_path, lr=1e30)
