"""A server under an operator's policy: whatever graph a client sends, whatever custom nodes are there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core import HERE, Unavailable
from graphs import APPLE, GREEN, RED, SMOKING, drawing, guarded, node, policy
from probes import red_probe
from server import Client, install, pixels, serving

RULES = """name: house
on_violation: black
guards:
  - {method: spm, artifact: emoji-sd/spm/cigarette}
  - {method: probe, artifact: emoji-sd/probe/red, threshold: 0.9}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("house")
    install(folder)
    shutil.copytree(HERE / "rogue", folder / "custom_nodes" / "rogue")
    red_probe(folder / "registry")
    (folder / "house.yaml").write_text(RULES)
    variables = {
        "CONCEPTGUARD_HOME": str(folder / "registry"), "CONCEPTGUARD_ENFORCE": str(folder / "house.yaml"),
        "CONCEPTGUARD_AUDIT": str(folder / "audit.jsonl"),
    }  # fmt: skip
    try:
        with serving(folder, **variables) as port:
            yield port, folder
    except Unavailable as why:
        pytest.skip(f"no ComfyUI core here: {why}")


@pytest.fixture
def client(house: Any) -> Iterator[Client]:
    found = Client(house[0])
    yield found
    found.socket.close()


def audit(house: Any, prompt: str) -> dict[str, Any]:
    """The line of a prompt, which is written soon after its end."""
    for _ in range(100):
        lines = [json.loads(line) for line in (house[1] / "audit.jsonl").read_text().splitlines()]
        if found := [line for line in lines if line["prompt_id"] == prompt]:
            (line,) = found
            return line
        time.sleep(0.1)
    raise AssertionError("no audit line")


def refused(house: Any, client: Client, graph: dict[str, Any], says: str) -> None:
    before = sorted((house[1] / "output").glob("*"))
    run = client.run(graph)
    assert not run.ok and says in run.error, run.error
    assert sorted((house[1] / "output").glob("*")) == before, "something was saved"


def test_the_page_is_told(client: Client) -> None:
    assert client.get("/conceptguard/status") == {"error": None, "enforced": "house"}


def test_a_graph_without_our_nodes(client: Client, house: Any) -> None:
    run = client.run(drawing())
    assert run.ok, run.error
    line = audit(house, run.answer["prompt_id"])
    assert line["status"] == "success" and line["policy"] == "house" and line["samplings"] == 1
    (opened,) = line["opened"]
    assert (opened["guard"], opened["gate"], opened["text"]) == ("spm emoji-sd/spm/cigarette", 1.0, SMOKING)
    assert line["client"] == client.id


def test_the_same_guards_as_by_hand(client: Client) -> None:
    by_hand = client.run(guarded(rules=policy(artifact="emoji-sd/spm/cigarette")))
    plain = client.run(drawing())
    same = [pixels(client, run.images("image")[0]) for run in (by_hand, plain)]
    assert np.array_equal(*same)


def test_another_sampler_node(client: Client, house: Any) -> None:
    graph = drawing() | {
        "noise": node("RandomNoise", noise_seed=3), "sampler": node("KSamplerSelect", sampler_name="euler"),
        "guider": node("BasicGuider", model=["demo", 0], conditioning=["towards", 0]),
        "sigmas": node("BasicScheduler", model=["demo", 0], scheduler="normal", steps=4, denoise=1.0),
        "latent": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
                       sigmas=["sigmas", 0], latent_image=["empty", 0]),
    }  # fmt: skip
    run = client.run(graph)
    assert run.ok, run.error
    assert audit(house, run.answer["prompt_id"])["opened"]


def test_images_are_looked_at_where_they_are_shown(client: Client, house: Any) -> None:
    graph = {
        "red": node("EmptyImage", width=64, height=64, batch_size=1, color=RED),
        "green": node("EmptyImage", width=64, height=64, batch_size=1, color=GREEN),
        "save": node("SaveImage", images=["red", 0], filename_prefix="test"),
        "preview": node("PreviewImage", images=["red", 0]),
        "fine": node("PreviewImage", images=["green", 0]),
    }
    run = client.run(graph)
    assert run.ok, run.error
    assert not pixels(client, run.images("save")[0]).any() and not pixels(client, run.images("preview")[0]).any()
    assert pixels(client, run.images("fine")[0]).mean((0, 1)).tolist() == [0, 0xC0, 0]
    (flagged,) = audit(house, run.answer["prompt_id"])["flagged"]
    assert flagged["label"] == "red" and flagged["action"] == "black"


def test_a_graph_that_saves_latents(client: Client, house: Any) -> None:
    graph = drawing()
    graph["image"] = node("SaveLatent", samples=["latent", 0], filename_prefix="test")
    refused(house, client, graph, "LATENT")
    prompt = client.queue(graph, prompt_id="named-by-client")
    assert "node_errors" in prompt
    line = audit(house, "named-by-client")
    assert line["status"] == "refused" and "SaveLatent" in line["reason"]


def test_a_node_that_samples_by_itself(client: Client, house: Any) -> None:
    graph = drawing()
    graph["bundle"] = node("RogueBundle", model=["demo", 0])
    graph["latent"] = node("RogueSamplesAlone", bundle=["bundle", 0], positive=["towards", 0])
    refused(house, client, graph, "sample past it")


def test_a_node_that_encodes_by_itself(client: Client, house: Any) -> None:
    graph = drawing()
    graph["latent"] = node("RogueEncodesAlone", model=["demo", 0], clip=["demo", 1], text=SMOKING)
    refused(house, client, graph, "sample past it")


def test_a_node_that_brings_its_own_model(client: Client, house: Any) -> None:
    graph = {"own": node("RogueBringsItsOwn", text=SMOKING)}
    graph["image"] = node("SaveImage", images=["own", 0], filename_prefix="test")
    refused(house, client, graph, "sample past it")


def test_a_node_that_decodes_and_saves(client: Client, house: Any) -> None:
    graph = drawing()
    graph["image"] = node("RogueDecodesAndSaves", samples=["latent", 0], vae=["demo", 2])
    refused(house, client, graph, "CONCEPTGUARD_TRUST")


def test_a_client_that_puts_our_guards_in_itself(client: Client, house: Any) -> None:
    """A guard with the wrong CLIP, or none at all behind it, is not taken for ours."""
    graph = drawing(model=("mine", 0))
    graph["mine"] = node("ConceptGuardEnforcedModel", model=["demo", 0], clip=["demo", 1])
    run = client.run(graph)
    assert run.ok and audit(house, run.answer["prompt_id"])["opened"]


def test_a_client_with_a_policy_of_its_own(client: Client, house: Any) -> None:
    run = client.run(guarded("a pistol, noto style", policy(artifact="emoji-sd/spm/pistol")))
    assert run.ok, run.error
    assert audit(house, run.answer["prompt_id"])["opened"][0]["guard"] == "spm emoji-sd/spm/pistol"


def test_what_no_guard_is_about_stays_as_it_is(client: Client, house: Any) -> None:
    graph = drawing(APPLE)
    graph["image"] = node("PreviewImage", images=["decode", 0])
    run = client.run(graph)
    assert run.ok, run.error
    line = audit(house, run.answer["prompt_id"])
    assert line["samplings"] == 1 and not line["opened"]


def test_prompts_that_make_no_sense(client: Client) -> None:
    for nonsense in ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, {"1": "x"}, {"1": {"inputs": {}}}):
        assert not client.run(nonsense).ok  # type: ignore[arg-type]
    assert client.run(drawing(APPLE, seed=4)).ok


@pytest.mark.slow  # starts servers
def test_a_policy_that_cannot_be_in_force_stops_the_server(house: Any, tmp_path: Path) -> None:
    install(tmp_path)
    for rules, arguments, says in (
        ("guards: [{method: spn}]", (), "did you mean 'spm'"),
        (RULES, ("--preview-method", "latent2rgb"), "preview"),
    ):
        (tmp_path / "house.yaml").write_text(rules)
        variables = {
            "CONCEPTGUARD_ENFORCE": str(tmp_path / "house.yaml"), "CONCEPTGUARD_HOME": str(house[1] / "registry"),
        }  # fmt: skip
        with pytest.raises(AssertionError, match=says), serving(tmp_path, *arguments, **variables):
            pass
