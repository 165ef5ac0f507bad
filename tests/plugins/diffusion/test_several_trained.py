"""One training for several concepts: each opens the artifact, steps are for each, and one can be taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conceptguard_plugins.diffusion.all_but_one import AllButOne
from conceptguard_plugins.diffusion.ant.method import ANT
from conceptguard_plugins.diffusion.doco.method import Doco
from conceptguard_plugins.diffusion.esd import ESD
from conceptguard_plugins.diffusion.realera.method import RealEra
from conceptguard_plugins.diffusion.salun import SalUn
from trained import torn, weights

import conceptguard
from conceptguard.concept import as_concepts, together
from conceptguard.making.task import Task
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

RUNS: dict[str, Any] = {"steps": 2, "batch": 2, "trajectory_steps": 3}
SHOTS: dict[str, Any] = {"steps": 3, "batch": 2, "shots": 2}
METHODS = {
    ESD: RUNS, AllButOne: RUNS, ANT: {**RUNS, "views": 1, "layers": "strict"}, RealEra: RUNS,
    Doco: {**SHOTS, "warmup": 1}, SalUn: {**SHOTS, "views": 2, "layers": "strict"},
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def make(method: Any, pipe: Any, out: Path, concepts: list[Any], **more: Any) -> Artifact:
    given = {**METHODS[method], "templates": ["{}"], "preserve": ["milk", "dog"], "progress": False, **more}
    made: Artifact = method.make(host_for(pipe), concepts, out, **given)
    return made


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_of_them_opens_it_and_is_trained_as_long_as_one(method: Any, pipe: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    made = make(method, pipe, tmp_path, ["beer", "skull"], report=lambda step, loss: seen.append(step))
    assert len(seen) == 2 * METHODS[method]["steps"]
    assert [one["name"] for one in made.manifest.made["concepts"]] == ["beer", "skull"]
    with conceptguard.attach(pipe, {"guards": [{"method": method.name, "artifact": str(made.folder)}]}) as session:
        for prompt, is_open in (("a beer", True), ("a skull", True), ("a dog", False)):
            pipe(prompt, num_inference_steps=1, output_type="latent")
            (act,) = session.receipt.acts
            assert (max(act.gates) > 0.9) is is_open, prompt


def test_what_appears_instead_is_each_concepts_own(tmp_path: Path) -> None:
    each = as_concepts([{"name": "beer", "prompts": ["beer"], "replacement": "milk"}, "skull"])
    task = Task(None, together(each, "both"), [], None, 0, tmp_path, "both", several=each)
    texts = ["{}", "a photo of {a}"]
    assert task.own(texts) == ["beer", "a photo of a beer", "skull", "a photo of a skull"]
    assert task.instead(texts, "cat") == ["milk", "a photo of a milk", "cat", "a photo of a cat"]
    assert task.instead(texts)[2:] == ["", "a photo of"] and task.times(60) == 120


def test_one_is_taken_back_to_the_last_bit_and_an_interrupted_one_goes_on(pipe: Any, tmp_path: Path) -> None:
    whole = make(ESD, pipe, tmp_path / "whole", ["beer", "skull", "bomb"])
    torn(3, lambda report: make(ESD, pipe, tmp_path / "torn", ["beer", "skull", "bomb"], report=report))
    assert weights(make(ESD, pipe, tmp_path / "torn", ["beer", "skull", "bomb"])) == weights(whole)
    whole.manifest.made["settings"]["gone"] = False  # an earlier version's
    left = ESD.withdraw(host_for(pipe), whole, ["skull"], progress=False)
    assert weights(left) == weights(make(ESD, pipe, tmp_path / "left", ["beer", "bomb"]))


def test_neighbours_of_each_are_erased_and_no_concept_is_one(pipe: Any, tmp_path: Path) -> None:
    """What lies around pistol opens the gate, though nobody named it; a gun that was named is nobody's neighbour."""
    made = make(RealEra, pipe, tmp_path, ["pistol", "beer"], preserve=["dog"])
    also, prompts = made.manifest.made["also"], made.manifest.concept.prompts
    assert "gun" in also and not {"pistol", "beer", "dog"} & set(also)
    assert prompts == ["pistol", "beer", *also] and len(set(prompts)) == len(prompts)
    with conceptguard.attach(pipe, {"guards": [{"method": "realera", "artifact": str(made.folder)}]}) as session:
        pipe("a gun", num_inference_steps=1, output_type="latent")
        assert max(session.receipt.acts[0].gates) > 0.9
    named = make(RealEra, pipe, tmp_path, ["pistol", "gun"], preserve=["dog"])
    assert "gun" not in named.manifest.made["also"]
