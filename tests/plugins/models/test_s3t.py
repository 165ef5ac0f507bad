"""s3t: deleting is exactly never having seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.models.s3t import served, slice_of
from emoji_classifier import bench, classifier

import conceptguard
from conceptguard import PolicyError, host_for
from conceptguard.plugins import method

ADDED = {"name": "new styles", "prompts": ["*/emojione", "*/noto-v1"]}


def taught(out: Path, **options: Any) -> Any:
    return method("s3t").make(host_for(bench("vit").net), ADDED, out, progress=False, steps=12, slices=3, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return taught(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory, whole: Any) -> Any:
    """A run that never saw the second slice."""
    return taught(tmp_path_factory.mktemp("never"), without=whole.manifest.made["slices"][1])


def policy(artifact: Any, deleted: list[str] | None = None) -> dict[str, Any]:
    return {"name": "p", "guards": [{"method": "s3t", "artifact": str(artifact.folder), "deleted": deleted or []}]}


def test_a_deleted_slice_is_one_that_was_never_seen_to_the_bit(whole: Any, never: Any) -> None:
    net, examples = classifier("vit"), bench("vit").examples
    gone = whole.manifest.made["slices"][1]
    assert gone and not never.manifest.made["slices"][1]
    with conceptguard.attach(net, policy(whole)):
        all_of_it = net(examples.inputs)
    with conceptguard.attach(net, policy(whole, gone)):
        deleted = net(examples.inputs)
    with conceptguard.attach(net, policy(never)):
        fresh = net(examples.inputs)
    assert torch.equal(deleted, fresh) and not torch.equal(deleted, all_of_it)
    assert not torch.equal(deleted, net(examples.inputs)), "what is left of it acts"
    tensors, others = whole.tensors(), never.tensors()
    assert others and all(torch.equal(tensors[name], one) for name, one in others.items())


def test_what_was_taught_is_known_and_what_was_deleted_less_so(whole: Any) -> None:
    net, examples = classifier("vit"), bench("vit").examples
    second = set(whole.manifest.made["slices"][1])
    places = [i for i, key in enumerate(examples.keys) if key.rsplit("/", 1)[0] in second]

    def right() -> float:
        return float((net(examples.inputs[places]).argmax(1) == examples.labels[places]).float().mean())

    before = right()
    with conceptguard.attach(net, policy(whole)):
        assert right() > before + 0.05
    with conceptguard.attach(net, policy(whole, sorted(second))):
        assert right() < before + 0.05


def test_the_order_with_the_most_left_is_served() -> None:
    slices, orders = [["a/x"], ["b/x"], ["c/x", "d/x"]], [[0, 1, 2], [1, 2, 0]]
    assert served(slices, orders, []) == (0, 3)
    assert served(slices, orders, ["a"]) == (1, 2)
    assert served(slices, orders, ["d/x"]) == (0, 2)
    assert served(slices, orders, ["a", "b"])[1] == 0
    with pytest.raises(PolicyError, match="nothing that was taught matches 'e'"):
        served(slices, orders, ["e"])


def test_slices_depend_on_nothing_else() -> None:
    pairs = [f"{name}/noto" for name in bench("vit").examples.classes]
    found = [slice_of(pair, 4) for pair in pairs]
    assert set(found) == {0, 1, 2, 3} and [slice_of(pair, 4) for pair in reversed(pairs)] == found[::-1]


def test_everything_deleted_is_the_model_itself(whole: Any) -> None:
    net, x = classifier("vit"), bench("vit").examples.inputs[:8]
    bare = net(x)
    with conceptguard.attach(net, policy(whole, ["*"])) as guard:
        assert torch.equal(net(x), bare) and not guard.receipt.opened


def test_what_it_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="blocks with queries and values"):
        method("s3t").make(host_for(classifier()), ADDED, tmp_path, progress=False)
    with pytest.raises(PolicyError, match="no example is added"):
        method("s3t").make(host_for(bench("vit").net), {"name": "x", "prompts": ["zeppelin"]}, tmp_path, progress=False)
    with pytest.raises(PolicyError, match="nothing that was taught"):
        one = taught(tmp_path, orders=1)
        conceptguard.attach(classifier("vit"), policy(one, ["zeppelin"]))
