"""SAFREE's artifacts and their measured schedule; re-attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.safree.make import betas, subspaces_of
from conceptguard_plugins.diffusion.safree.math import safe_steps
from conceptguard_plugins.diffusion.safree.method import SAFREE
from conceptguard_plugins.diffusion.safree.reattention import damped
from tiny import clip_tokenizer, generate, tiny_sd, tiny_sdxl
from tiny_transformers import tiny_sd3

import conceptguard
from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.measuring.suite import erased, load_suite, neighbours
from conceptguard.plugins import host_for
from conceptguard.registry import default_registry

CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "smoking"]}
PROMPTS = ["a man smoking a cigarette", "a bridge"]
ACTS = {"gate": "always", "alpha": 0.0, "schedule": False}


def policy(**guard: Any) -> dict[str, Any]:
    return {"guards": [{"method": "safree", **ACTS, **guard}]}


@pytest.mark.parametrize("maker", [tiny_sd, tiny_sdxl])
def test_an_artifact_gives_what_its_concept_gives(maker: Any, tmp_path: Path) -> None:
    pipe = maker(clip_tokenizer())
    artifact = SAFREE.make(host_for(pipe), CONCEPT, tmp_path, preserve=["bridge", "dog"], positions="triggers")
    for space in artifact.tensors().values():
        rows = space[space.any(-1)]
        assert len(rows) and torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
    with conceptguard.attach(pipe, policy(concept=CONCEPT)):
        wanted = generate(pipe, PROMPTS)
    with conceptguard.attach(pipe, policy(artifact=str(artifact.folder), alpha=0.0)) as guard:
        torch.testing.assert_close(generate(pipe, PROMPTS), wanted, atol=1e-4, rtol=1e-3)
        assert guard.methods[0].settings.t0 == artifact.manifest.settings["t0"], "the artifact brings its schedule"
    with conceptguard.attach(pipe, policy(artifact=str(artifact.folder), t0=1.0)) as guard:
        assert guard.methods[0].settings.t0 == 1.0, "the policy has the last word"


def test_an_artifact_brings_how_far_a_guard_of_full_strength_goes(tiny: Any, tmp_path: Path) -> None:
    artifact = SAFREE.make(host_for(tiny), CONCEPT, tmp_path, positions="triggers", scale=2.0)
    with conceptguard.attach(tiny, policy(concept=CONCEPT)):
        wanted = generate(tiny, PROMPTS)
    with conceptguard.attach(tiny, policy(artifact=str(artifact.folder), alpha=0.0, strength=0.5)):
        torch.testing.assert_close(generate(tiny, PROMPTS), wanted, atol=1e-4, rtol=1e-3)
    with conceptguard.attach(tiny, policy(artifact=str(artifact.folder), alpha=0.0)):
        assert float((generate(tiny, PROMPTS) - wanted).abs().max()) > 1e-2


def test_a_schedule_that_gives_no_step_says_so(tiny: Any) -> None:
    bare = generate(tiny, PROMPTS)
    with conceptguard.attach(tiny, policy(concept=CONCEPT, schedule=True, t0=100.0)) as guard:
        assert torch.equal(generate(tiny, PROMPTS), bare)
        (act,) = guard.receipt.acts
    assert not any(act.gates) and not act.steps
    assert all("not projected: the schedule gives it no step" in note for note in act.notes) and act.notes


def test_subspaces_of_another_encoder_of_the_same_shape_are_refused(tmp_path: Path) -> None:
    artifact = SAFREE.make(host_for(tiny_sd(clip_tokenizer())), CONCEPT, tmp_path)
    with pytest.raises(BaseMismatch, match="another text_encoder"):
        conceptguard.attach(tiny_sd(clip_tokenizer(), seed=1), policy(artifact=str(artifact.folder)))


def test_settings_that_an_artifact_should_not_have_are_an_error(tmp_path: Path, tiny: Any) -> None:
    artifact = SAFREE.make(host_for(tiny), CONCEPT, tmp_path)
    manifest = artifact.folder / "artifact.yaml"
    manifest.write_text(manifest.read_text().replace("positions: all", "positions: some"))
    with pytest.raises(ArtifactError, match="artifact's own settings"):
        conceptguard.attach(tiny, policy(artifact=str(artifact.folder)))


def test_shipped_schedules_act_on_what_the_judge_asks_for(pipe: Any) -> None:
    """On the judge's wordings, of which none was measured: the concept is held down longer than its neighbours."""
    host, suite = host_for(pipe), load_suite("emoji-sd")
    encoders = host.encoders()
    own, near = [], []
    for name in suite.concepts[:10]:
        artifact = default_registry().load(f"emoji-sd/safree/{name}")
        settings, concepts = artifact.manifest.settings, subspaces_of(artifact, encoders)
        for found, samples in ((own, erased(suite, name, 8)), (near, neighbours(suite, name, 8))):
            taken = betas(host, encoders, concepts, [s.prompt for s in samples], settings["alpha"])
            found.append(safe_steps(taken, settings["up_t"], settings["t0"], settings["k"]))
    assert float((torch.cat(own) >= 25).float().mean()) > 0.9
    assert float((torch.cat(near) >= 25).float().mean()) < 0.5


def test_only_low_frequencies_that_grew_are_damped() -> None:
    x = torch.arange(8) * 2 * torch.pi / 8
    slow, fast = torch.cos(x).expand(8, 8), torch.cos(3 * x).expand(8, 8)
    own = slow + fast
    assert torch.allclose(damped(2 * slow + 5 * fast, own, 0.5), slow + 5 * fast, atol=1e-5)
    assert torch.allclose(damped(0.5 * slow + 5 * fast, own, 0.5), 0.5 * slow + 5 * fast, atol=1e-5)


def test_reattention_changes_guarded_rows_alone_and_leaves_nothing(tiny: Any) -> None:
    guard = {"concept": CONCEPT, "gate": "prompt", "positions": "all"}
    bare = generate(tiny, PROMPTS)
    found = {}
    for name, more in {"off": {}, "neutral": {"s1": 1.0, "s2": 1.0}, "on": {"s1": 0.0, "s2": 0.0}}.items():
        with conceptguard.attach(tiny, policy(**guard, reattention=name != "off", **more)):
            found[name] = generate(tiny, PROMPTS)
        assert torch.equal(found[name][1], bare[1])
        assert not any(block._forward_pre_hooks for block in tiny.unet.up_blocks)
    assert torch.allclose(found["neutral"], found["off"], atol=1e-4)
    assert not torch.allclose(found["on"][0], found["off"][0], atol=1e-2)


def test_reattention_needs_a_unet() -> None:
    with pytest.raises(PolicyError, match="skip connections"):
        conceptguard.attach(tiny_sd3(clip_tokenizer()), policy(concept=CONCEPT, reattention=True))
