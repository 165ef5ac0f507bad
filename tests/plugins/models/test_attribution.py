"""What training examples add to a model's outputs: datamodels and TRAK, beside trainings that were really without."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.models.datamodels import CLASS, Datamodels, Sources, features, sources_of, train_side_by_side
from conceptguard_plugins.models.trak import trak
from safetensors.torch import save_file
from torch import nn

import conceptguard
from conceptguard.making.fit import Recipe, anew, fit
from conceptguard.measuring.classifier.measures import margin_of, margins


def clusters(n: int = 160) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Four classes around five centres each; those of one centre are views of one source."""
    random = torch.Generator().manual_seed(0)
    labels, part = torch.arange(n) % 4, torch.arange(n) // 4 % 5
    centres = torch.randn(4, 5, 12, generator=random) * 1.5
    inputs = centres[labels, part] + 0.3 * torch.randn(n, 12, generator=random)
    return inputs, labels, [f"{a}/{b}/{i}" for i, (a, b) in enumerate(zip(labels.tolist(), part.tolist()))]


def test_sources_are_views_of_one_picture_or_examples() -> None:
    found = sources_of(["a/noto/0", "a/noto/1", "b/noto/0"], torch.tensor([0, 0, 1]))
    assert found.at.tolist() == [0, 0, 1] and found.label.tolist() == [0, 1]
    assert sources_of(["0/0", "0/1"], torch.tensor([0, 0])).at.tolist() == [0, 1]
    there = torch.tensor([[True, False, False], [False, False, True]])
    assert features(there, Sources(torch.arange(3), torch.tensor([0, 0, 1]))).tolist() == [
        [1, 0, 0, CLASS, 0], [0, 0, 1, 0, CLASS]
    ]  # fmt: skip


def test_a_linear_world_is_read_off() -> None:
    """Outputs that are sums of what sources and classes add: what is predicted without some is what they add."""
    random = torch.Generator().manual_seed(0)
    sources = Sources(torch.arange(12), torch.arange(12) // 4)
    there = torch.rand(3000, 12, generator=random) > 0.3
    there[:, 4:8] &= (torch.rand(3000, 1, generator=random) > 0.3).expand(-1, 4)
    adds = torch.randn(15, 6, 2, generator=random)
    logits = torch.einsum("tf,fnc->tnc", features(there, sources), adds)
    gone = torch.arange(12) // 4 == 1
    by_hand = -(adds[4:8].sum(0) + CLASS * adds[13])
    assert torch.allclose(Datamodels(logits, there, sources).change(gone), by_hand, atol=0.1)


def test_what_is_predicted_without_a_class_is_what_trainings_without_it_say() -> None:
    inputs, labels, keys = clusters()
    sources = sources_of(keys, labels)
    models = train_side_by_side(inputs, labels, sources, 4, trainings=64, epochs=20)
    gone = sources.label == 2
    said = models.logits.float()
    without = said[~(models.there & gone).any(1)].mean(0)
    assert len(without) and (labels[labels == 2] == without[labels == 2].argmax(1)).float().mean() < 0.1
    change = models.change(gone)
    full = said.mean(0) + models.change(torch.zeros(len(gone), dtype=torch.bool))
    own = margin_of(full + change, labels)[labels == 2].mean() - margin_of(full, labels)[labels == 2].mean()
    other = models.change(sources.label == 1)
    beside = margin_of(full + other, labels)[labels == 2].mean() - margin_of(full, labels)[labels == 2].mean()
    assert own < -2 and abs(float(beside)) < 0.5 * abs(float(own)), "another class takes little of this one"
    again = train_side_by_side(inputs, labels, sources, 4, trainings=64, epochs=20)
    assert torch.equal(again.logits, models.logits)


def test_trak_is_its_formula() -> None:
    """With as many sums as weights and no two in one: the paper's scores, from gradients of a loop."""
    inputs, labels, _ = clusters(40)
    torch.manual_seed(0)
    net = fit(nn.Linear(12, 4), inputs, labels, Recipe(4, 1e-2), 0)
    found = trak(net, inputs, labels, torch.Generator().manual_seed(0), width=4096, chunk=7)
    rows = []
    for x, y in zip(inputs, labels):
        net.zero_grad()
        margin_of(net(x[None]), y[None]).sum().backward()
        rows.append(torch.cat([one.grad.flatten() for one in net.parameters() if one.grad is not None]))
    phi, p = torch.stack(rows).double(), torch.softmax(net(inputs), 1).gather(1, labels[:, None])[:, 0].detach()
    by_hand = phi @ torch.linalg.pinv(phi.T @ phi) @ phi.T * (1 - p)
    assert torch.corrcoef(torch.stack([found.flatten().double(), by_hand.flatten()]))[0, 1] > 0.95


def test_a_model_anew_is_as_before_its_training() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for one in net.parameters():
            one.fill_(9.0)
    before = copy.deepcopy(net.state_dict())
    one, other, again = anew(net, 0), anew(net, 1), anew(net, 0)
    assert bool((one[1].weight == 1).all()) and bool((one[0].weight.abs() < 1).all())
    assert not torch.equal(one[0].weight, other[0].weight) and torch.equal(one[0].weight, again[0].weight)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("labels", [[0, 1], [1, 0]])
def test_the_margin_is_the_measures(labels: list[int]) -> None:

    logits, named = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), torch.tensor(labels)
    assert torch.allclose(margin_of(logits, named), margins(logits, named))
    of_the_class = logits.softmax(1).gather(1, named[:, None])[:, 0]
    assert torch.allclose(margin_of(logits, named), of_the_class.logit(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "below"),
    [
        ({"trainings": 64, "epochs": 20}, 0.1),
        ({"scores": "oracle", "oracles": 2, "oracle_epochs": 12, "oracle_lr": 2e-2}, 0.1),
        ({"scores": "trak"}, 1.1),  # of one model that is sure of everything: next to nothing is predicted
    ],
)
def test_a_class_is_forgotten_by_what_is_predicted(
    options: dict[str, Any], below: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a net of vectors. What is kept of the trainings serves another class without training again."""
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    inputs, labels, _ = clusters(400)
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    net = fit(start, inputs, labels, Recipe(20, 2e-2), 0)
    save_file({"inputs": inputs, "labels": labels}, tmp_path / "own.safetensors")
    told = {"data": str(tmp_path / "own.safetensors"), "lr": 1e-2, **options}
    bare = net(inputs)

    def right(of: torch.Tensor) -> float:
        return float((net(inputs).argmax(1) == labels)[of].float().mean())

    assert right(labels == 2) > 0.95
    for name in ("2", "1"):
        one = conceptguard.make(net, "dmm", {"name": f"no {name}", "prompts": [name]}, tmp_path / "registry", **told)
        with conceptguard.attach(net, {"name": "p", "guards": [{"method": "dmm", "artifact": str(one.folder)}]}):
            assert right(labels == int(name)) < below and right(labels != int(name)) > 0.9
            assert not torch.equal(net(inputs), bare)
    assert len(list(tmp_path.rglob("*.piece"))) == ("trainings" in options), "trained once for both"
