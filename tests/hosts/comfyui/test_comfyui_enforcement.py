"""A server under an operator's policy: whatever graph a client sends, whatever custom nodes are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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
  - {method: probe, artifact: emoji-sd/probe/beer, threshold: 0.9}
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


def lines(house: Any, prompt: str, count: int = 1) -> list[dict[str, Any]]:
    """What is recorded of a prompt, which is soon after its end."""
    for _ in range(100):
        found = [json.loads(line) for line in (house[1] / "audit.jsonl").read_text().splitlines()]
        if len(found := [line for line in found if line["prompt_id"] == prompt]) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError("no audit line")


def audit(house: Any, prompt: str) -> dict[str, Any]:
    """The one line of a prompt."""
    (line,) = lines(house, prompt)
    return line


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
    """A node of a former version's enforcement is not taken for a guard."""
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


def beer(**more: Any) -> dict[str, Any]:
    """A drawing that the policy flags, and nodes that would show something of it."""
    graph = drawing("a beer, noto style", steps=6)
    del graph["image"]
    return graph | more


SAVED = {"filename_prefix": "test"}
DISGUISES = {
    "inverted": {"a": node("ImageInvert", image=["decode", 0]), "out": node("SaveImage", images=["a", 0], **SAVED)},
    "blended": {
        "plain": node("EmptyImage", width=128, height=128, batch_size=1, color=GREEN),
        "a": node("ImageBlend", image1=["decode", 0], image2=["plain", 0], blend_factor=0.8, blend_mode="normal"),
        "out": node("SaveImage", images=["a", 0], **SAVED),
    },
    "a channel": {
        "a": node("ImageToMask", image=["decode", 0], channel="red"), "b": node("MaskToImage", mask=["a", 0]),
        "out": node("PreviewImage", images=["b", 0]),
    },
    "a mask": {
        "a": node("ImageToMask", image=["decode", 0], channel="green"), "out": node("MaskPreview", mask=["a", 0]),
    },
    "tiled": {
        "a": node("VAEDecodeTiled", samples=["latent", 0], vae=["demo", 2], tile_size=64, overlap=16, temporal_size=64,
                  temporal_overlap=8),
        "b": node("ImageInvert", image=["a", 0]), "out": node("SaveImage", images=["b", 0], **SAVED),
    },
    "turned before it is decoded": {
        "a": node("LatentRotate", samples=["latent", 0], rotation="180 degrees"),
        "b": node("VAEDecode", samples=["a", 0], vae=["demo", 2]), "out": node("SaveImage", images=["b", 0], **SAVED),
    },
    "inverted before it is decoded": {
        "a": node("LatentMultiply", samples=["latent", 0], multiplier=-1.0),
        "b": node("VAEDecode", samples=["a", 0], vae=["demo", 2]), "out": node("SaveImage", images=["b", 0], **SAVED),
    },
    "by a decoder that leaves latents as they are": {
        "a": node("LatentMultiply", samples=["latent", 0], multiplier=0.05),
        "other": node("VAELoader", vae_name="pixel_space"), "b": node("VAEDecode", samples=["a", 0], vae=["other", 0]),
        "out": node("SaveImage", images=["b", 0], **SAVED),
    },
    "drawn over": {
        "a": node("KSampler", model=["demo", 0], positive=["away", 0], negative=["away", 0], latent_image=["turned", 0],
                  seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=0.05),
        "turned": node("LatentMultiply", samples=["latent", 0], multiplier=-1.0),
        "b": node("VAEDecode", samples=["a", 0], vae=["demo", 2]), "out": node("SaveImage", images=["b", 0], **SAVED),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DISGUISES)
def test_a_flagged_picture_is_closed_before_it_can_be_disguised(client: Client, house: Any, name: str) -> None:
    """What leaves is black, or what black becomes, and the audit says why: also where all of it was in the cache."""
    graph = beer(**DISGUISES[name])
    graph["latent"]["inputs"]["seed"] = 50 + list(DISGUISES).index(name)  # nothing was decoded of it before
    run = client.run(graph)
    assert run.ok, run.error
    shown = pixels(client, run.images("out")[0])
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1, f"something of the picture is left: {shown.std()}"
    assert {flag["label"] for flag in audit(house, run.answer["prompt_id"])["flagged"]} == {"beer"}


@pytest.mark.parametrize(
    "shown",
    [
        {"out": node("PreviewAny", source=["latent", 0])},
        {"out": node("SaveLatent", samples=["latent", 0], **SAVED)},
        {
            "a": node("LatentCrop", samples=["latent", 0], width=64, height=64, x=0, y=0),
            "out": node("PreviewAny", source=["a", 0]),
        },
    ],
    ids=["as text", "as a file", "a part, as text"],
)  # fmt: skip
def test_latents_never_leave(client: Client, house: Any, shown: Any) -> None:
    refused(house, client, beer(**shown), "did not look at")


@pytest.mark.parametrize(("kind", "inputs"), [
    ("CheckpointSave", {"model": ["c", 0], "clip": ["c", 1], "vae": ["c", 2]}),
    ("ModelSave", {"model": ["c", 0]}), ("CLIPSave", {"clip": ["c", 1]}), ("VAESave", {"vae": ["c", 2]}),
])  # fmt: skip
def test_no_model_is_saved(client: Client, house: Any, kind: str, inputs: dict[str, Any]) -> None:
    graph = {"c": node("ConceptGuardDemoModel", name="emoji-sd"), "s": node(kind, filename_prefix="mine", **inputs)}
    refused(house, client, graph, "would save a model")


def test_links_that_the_core_unwraps(client: Client, house: Any) -> None:
    graph = beer(out=node("PreviewAny", source={"__value__": ["latent", 0]}))
    answer = client.queue(graph, prompt_id="wrapped")
    assert "write [node, output]" in json.dumps(answer)
    assert audit(house, "wrapped")["status"] == "refused"


def test_an_error_tells_nothing_of_what_it_was_given(client: Client, house: Any) -> None:
    """ComfyUI prints a failing node's inputs into its message to the page."""
    graph = beer(a=node("RogueFails", anything=["latent", 0]), out=node("PreviewAny", source=["a", 0]))
    (told,) = client.run(graph).told("execution_error")
    assert told["exception_message"].startswith("ValueError, in a node") and not told["current_inputs"]
    assert "tensor" not in json.dumps(told)


def test_messages_of_other_kinds_are_not_sent(client: Client, house: Any) -> None:
    """A node tells in each way that there is: a picture, one with a progress bar, a text, an event of its own."""
    client.socket.heard.clear()
    run = client.run(beer(a=node("RogueTells", anything=["decode", 0]), out=node("PreviewAny", source=["a", 0])))
    assert run.texts("out") == ["told"], run.error
    heard = set(client.socket.heard)
    assert "executed" in heard and not heard & {"binary", "rogue.tells"}, heard


def test_the_log_is_the_operators(client: Client) -> None:
    for path in ("/internal/logs", "/api/internal/logs/raw"):
        assert "operator" in client.get(path)["error"]


def test_a_node_of_somebody_elses_that_shows_a_picture(client: Client, house: Any) -> None:
    refused(house, client, beer(out=node("RogueShows", images=["decode", 0])), "CONCEPTGUARD_TRUST")


def test_a_flagged_picture_from_the_cache_is_flagged_again(client: Client, house: Any) -> None:
    graph = beer(out=node("PreviewImage", images=["decode", 0]))
    graph["latent"]["inputs"]["seed"] = 41
    first, again = client.run(graph), client.run(graph)
    one, other = (audit(house, run.answer["prompt_id"]) for run in (first, again))
    assert [flag["cached"] for flag in one["flagged"]] == [False] and one["samplings"] == 1
    assert [flag["cached"] for flag in other["flagged"]] == [True] and other["samplings"] == 0
    assert one["flagged"][0]["score"] == other["flagged"][0]["score"] and one["id"] != other["id"]


def test_an_id_that_a_client_uses_twice(client: Client, house: Any) -> None:
    for seed in (21, 22):
        client.queue(drawing(APPLE, seed=seed), prompt_id="twice")
        client.wait("twice")
    found = lines(house, "twice", 2)
    assert len({line["id"] for line in found}) == 2 and [line["samplings"] for line in found] == [1, 1]


def test_a_cleared_history_and_a_cleared_queue(client: Client, house: Any) -> None:
    """What was drawn stays drawn in the audit, and what was taken from the queue is said to be."""
    run = client.run(drawing(APPLE, seed=31))
    client.post("/history", {"clear": True})
    assert audit(house, run.answer["prompt_id"])["status"] == "success"
    long = client.queue(drawing(APPLE, seed=32, steps=300))["prompt_id"]
    waiting = [client.queue(drawing(APPLE, seed=33 + n))["prompt_id"] for n in range(3)]
    client.post("/queue", {"delete": [waiting[0]]})
    client.post("/queue", {"clear": True})
    client.post("/interrupt", {})
    client.wait(long)
    assert [audit(house, prompt)["status"] for prompt in waiting] == ["cancelled"] * 3
    assert audit(house, long)["reason"] == "interrupted"


def test_a_pack_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    """Whatever is wrong with it: under a policy ComfyUI must not go on without the pack."""
    for error in ("ImportError", "RuntimeError"):
        (tmp_path / "conceptguard.py").write_text(f"raise {error}('broken')\n")
        code = "import asyncio, conceptguard_nodes; asyncio.run(conceptguard_nodes.comfy_entrypoint())"
        around = {**os.environ, "CONCEPTGUARD_ENFORCE": "house.yaml", "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=around, capture_output=True, text=True)
        assert done.returncode == 1 and "is not in force" in done.stderr and error in done.stderr, done.stderr


@pytest.mark.slow  # starts servers
def test_a_policy_that_cannot_be_in_force_stops_the_server(house: Any, tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pluggy.py").write_text("raise RuntimeError('broken')")
    for rules, arguments, path, says in (
        ("guards: [{method: spn}]", (), "", "did you mean 'spm'"),
        (RULES, ("--preview-method", "latent2rgb"), "", "preview"),
        (RULES, (), str(tmp_path / "broken"), "broken"),
    ):
        (tmp_path / "house.yaml").write_text(rules)
        variables = {
            "PYTHONPATH": path,
            "CONCEPTGUARD_ENFORCE": str(tmp_path / "house.yaml"), "CONCEPTGUARD_HOME": str(house[1] / "registry"),
        }  # fmt: skip
        with pytest.raises(AssertionError, match=says), serving(tmp_path, *arguments, **variables):
            pass


@pytest.mark.slow  # starts servers
@pytest.mark.parametrize("cache", [("--cache-lru", "5"), ("--cache-none",)])
def test_other_caches(house: Any, tmp_path: Path, cache: Any) -> None:
    install(tmp_path)
    variables = {"CONCEPTGUARD_ENFORCE": str(house[1] / "house.yaml"), "CONCEPTGUARD_HOME": str(house[1] / "registry"),
                 "CONCEPTGUARD_AUDIT": str(tmp_path / "audit.jsonl")}  # fmt: skip
    graph = beer(a=node("ImageInvert", image=["decode", 0]), out=node("PreviewImage", images=["a", 0]))
    with serving(tmp_path, *cache, **variables) as port:
        client = Client(port)
        for _ in range(2):
            run = client.run(graph)
            assert run.ok and len(np.unique(pixels(client, run.images("out")[0]))) == 1
            assert audit((port, tmp_path), run.answer["prompt_id"])["flagged"]
        refused((port, tmp_path), client, beer(out=node("PreviewAny", source=["latent", 0])), "did not look at")


@pytest.mark.slow  # starts a server
def test_a_policy_that_does_not_look_lets_everything_be_shown(tmp_path: Path) -> None:
    install(tmp_path)
    shutil.copytree(HERE / "rogue", tmp_path / "custom_nodes" / "rogue")
    (tmp_path / "house.yaml").write_text("guards:\n  - {method: spm, artifact: emoji-sd/spm/cigarette}\n")
    variables = {"CONCEPTGUARD_ENFORCE": str(tmp_path / "house.yaml")}
    shown = {"told": node("PreviewAny", source=["latent", 0]), "own": node("RogueShows", images=["decode", 0])}
    with serving(tmp_path, **variables) as port:
        run = Client(port).run(drawing(**shown))
        assert run.ok and run.texts("told") and run.texts("own"), run.error
