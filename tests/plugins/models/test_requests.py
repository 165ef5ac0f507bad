"""gs_lora: requests that come one after another, on the small transformer, and any of them withdrawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emoji_classifier import bench, classifier, made

import conceptguard
from conceptguard import PolicyError, host_for
from conceptguard.plugins import method

FIRST, SECOND = ["skull", "ghost", "alien"], ["spider", "snake", "crab"]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Two, the second made while the first acts."""
    out, found, host = tmp_path_factory.mktemp("requests"), [], host_for(bench("vit").net)
    for number, own in enumerate((FIRST, SECOND)):
        about = {"name": f"request {number}", "prompts": own}
        after = [str(one.folder) for one in found]
        found.append(method("gs_lora").make(host, about, out, progress=False, steps=80, after=after))
    return found


def right(net: Any, classes: list[str]) -> float:
    """Share of training examples of some classes that are named rightly."""
    examples = bench("vit").examples
    places = examples.matching(classes)
    return float((net(examples.inputs[places]).argmax(1) == examples.labels[places]).float().mean())


def policy(*requests: Any) -> dict[str, Any]:
    return {"name": "p", "guards": [{"method": "gs_lora", "artifact": str(one.folder)} for one in requests]}


def test_requests_add_up_and_any_can_be_withdrawn(requests: list[Any]) -> None:
    net, x = classifier("vit"), bench("vit").examples.inputs[:8]
    others = [name for name in bench("vit").examples.classes if name not in {*FIRST, *SECOND}]
    bare = net(x)
    with conceptguard.attach(net, policy(*requests)):
        assert right(net, FIRST) <= 0.03 and right(net, SECOND) <= 0.03 and right(net, others) >= 0.97
    with conceptguard.attach(net, policy(requests[1])):
        assert right(net, FIRST) >= 0.98 and right(net, SECOND) <= 0.1
    with conceptguard.attach(net, policy(requests[0])):
        assert right(net, SECOND) >= 0.98 and right(net, FIRST) <= 0.03
    assert torch.equal(net(x), bare)


def test_terms_lie_beside_feed_forward_layers_alone(requests: list[Any]) -> None:
    names = {key.split(".beside")[0] for key in requests[0].tensors()}
    assert names and all(name.rsplit(".", 1)[1] in ("fc1", "fc2") for name in names)
    assert requests[0].tensors()["model.blocks.3.fc1.beside.down"].shape[0] == 8
    assert set(requests[0].manifest.made["blocks"]) == {f"blocks.{i}" for i in range(4)}


@pytest.mark.slow
def test_more_penalty_leaves_blocks_out(tmp_path: Path) -> None:
    """The group penalty is what makes it sparse: by blocks, and not weight by weight."""
    few = [made("gs_lora", "skull", tmp_path / str(alpha), "vit", alpha=alpha, steps=60) for alpha in (0.0, 0.1)]
    sizes = [sorted(one.manifest.made["blocks"].values()) for one in few]
    assert sizes[1][0] < 0.5 * sizes[0][0]


def test_what_it_does_not_take(requests: list[Any], tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no numbered blocks with feed-forward layers"):
        made("gs_lora", "skull", tmp_path)
    other = made("damp", "skull", tmp_path)
    with pytest.raises(PolicyError, match="made for another model"):
        made("gs_lora", "spider", tmp_path, "vit", after=[str(other.folder)])
