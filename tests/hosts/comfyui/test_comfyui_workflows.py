"""The example workflows, as the page would post them, on a real server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from server import Client, pixels
from workflow import to_graph

FOLDER = ROOT / "nodes" / "example_workflows"
STEPS = 4


def load(client: Client, name: str) -> dict[str, Any]:
    """The graph, with fewer steps."""
    known = client.get("/object_info")
    if "sdxl" in name:  # no such file here: any is as good for reading the rest
        known["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0].append("sd_xl_base_1.0.safetensors")
    graph = to_graph(json.loads((FOLDER / f"{name}.json").read_text()), known)
    for node in graph.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = STEPS
    return graph


def of(graph: dict[str, Any], kind: str) -> str:
    return next(key for key, node in graph.items() if node["class_type"] == kind)


def test_all_are_tried_here() -> None:
    names = {path.stem for path in FOLDER.glob("*.json")}
    assert names == {"1_demo_with_spm", "2_sdxl_with_policy", "3_check_and_branch", "4_before_and_after"}


def test_demo_with_spm(client: Client) -> None:
    graph = load(client, "1_demo_with_spm")
    run = client.run(graph)
    assert run.ok, run.error
    assert "spm emoji-sd/spm/cigarette: open 1.00" in run.texts(of(graph, "ConceptGuardReceipt"))[0]


def test_sdxl_with_policy(client: Client) -> None:
    """Run with a tiny SDXL of random weights: the graph is right; what it draws says nothing."""
    graph = load(client, "2_sdxl_with_policy")
    loader = of(graph, "CheckpointLoaderSimple")
    graph[loader] = {"class_type": "TinyXL", "inputs": {}}
    graph[of(graph, "EmptyLatentImage")]["inputs"].update(width=64, height=64)
    graph[of(graph, "CLIPTextEncode")]["inputs"]["text"] = "a man with a gun and blood"
    run = client.run(graph)
    assert run.ok, run.error
    assert "sld blood: open" in run.texts(of(graph, "ConceptGuardReceipt"))[0]


@pytest.mark.parametrize("found", [False, True])
def test_check_and_branch(client: Client, found: bool) -> None:
    pytest.importorskip("nudenet")
    graph = load(client, "3_check_and_branch")
    if found:  # the same branches by a detector that finds something in every emoji
        artifact = {"artifact": "emoji-sd/probe/red", "method": "the artifact's own"}
        graph[of(graph, "ConceptGuardPolicy")]["inputs"].update(artifact)
        graph[of(graph, "VAEDecode")] = {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0xE00000},
        }
    run = client.run(graph)
    assert run.ok, run.error
    assert (of(graph, "SaveImage") in run.history["outputs"]) == (not found)
    assert of(graph, "PreviewImage") in run.history["outputs"]
    assert ("shows red" if found else "nothing found") in run.texts(of(graph, "PreviewAny"))[0]


def test_before_and_after(client: Client) -> None:
    graph = load(client, "4_before_and_after")
    run = client.run(graph)
    assert run.ok, run.error
    both = pixels(client, run.images(of(graph, "PreviewImage"))[0])
    assert both.shape[:2] == (128, 264) and not np.array_equal(both[:, :128], both[:, 136:])
    assert "spm emoji-sd/spm/pistol: opens 1.00 because of" in run.texts(of(graph, "ConceptGuardExplain"))[0]
