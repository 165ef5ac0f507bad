"""Methods that forget in classifiers, on the embedded one, beside models that were trained without."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.models import fisher
from conceptguard_plugins.models.damp import parts
from conceptguard_plugins.models.fisher import of_batches, per_sample
from emoji_classifier import bench, classifier, made
from safetensors.torch import save_file
from torch import nn

import conceptguard
from conceptguard import ArtifactError, PolicyError, RegistryError
from conceptguard.cli import run
from conceptguard.hosts.modules.nets import NETS
from conceptguard.plugins import host_for, methods

# Forget sets on which a method is within the bar of retraining.
WITHIN = {
    "ssd": ("skull", "weapons"), "damp": ("skull", "weapons"), "sparse_unlearning": (), "concept_poisoning": (),
    "laf": ("weapons",), "dmm": ("skull",),
}  # fmt: skip
QUICK: dict[str, Any] = {
    "ssd": {"compat": "official"}, "sparse_unlearning": {"steps": 8}, "concept_poisoning": {"steps": 4},
    "laf": {"steps": 4, "repair": 2, "autoencoding": 10}, "dmm": {"trainings": 8, "epochs": 1, "steps": 4},
}  # fmt: skip
APART = {"gs_lora", "s3t"}  # of transformers alone


# Of graphs and of generators of pictures, judged in files of their own.
ELSEWHERE = {"d2dgn", "text_to_unlearn"}


def test_every_method_for_classifiers_is_tested_here() -> None:
    assert {name for name, method in methods().items() if method.modules} == {*WITHIN, *APART, *ELSEWHERE}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "concept"), [(m, c) for m, sets in WITHIN.items() for c in sets])
def test_it_is_within_the_bar_of_retraining(method: str, concept: str, tmp_path: Path) -> None:
    """Forget, retain and test accuracy at once, where doing nothing and random labels are not."""
    own = bench().made(method, concept, tmp_path, {})
    assert own["passes"] and own["gap"] <= 0.03, own
    assert not bench().bare(concept)["passes"]
    assert bench().retrained(concept)["passes"], "a retrained model must be within the bar of its like"


@pytest.mark.parametrize("method", WITHIN)
def test_it_acts_comes_off_and_is_made_the_same_again(method: str, tmp_path: Path) -> None:
    net = classifier()
    x = bench().examples.inputs[:8]
    before = {name: one.clone() for name, one in net.state_dict().items()}
    bare = net(x)
    one, other = (made(method, "skull", tmp_path / name, **QUICK.get(method, {})) for name in "ab")
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())
    with conceptguard.attach(net, {"name": "p", "guards": [{"method": method, "artifact": str(one.folder)}]}) as guard:
        assert not torch.equal(net(x), bare)
        assert guard.receipt.opened and guard.receipt.opened[0].layers > 0
    assert torch.equal(net(x), bare)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("method", WITHIN)
def test_bad_input_is_told_and_changes_nothing(method: str, tmp_path: Path) -> None:
    net = bench().net
    before = {name: one.clone() for name, one in net.state_dict().items()}

    def refused(prompts: list[str], match: str, target: Any = net, **options: Any) -> None:
        with pytest.raises((PolicyError, RegistryError), match=match):
            methods()[method].make(
                host_for(target), {"name": "x", "prompts": prompts}, tmp_path, progress=False, **options
            )

    refused(["zeppelin"], "no class 'zeppelin'")
    refused(["skull/nowhere/*"], "forget set is empty")
    refused(["*"], "forget set is everything")
    training = classifier().train()
    refused(["skull"], "training mode", training)
    refused(["0"], "on which examples", NETS["resnet"](60).eval())
    refused(["0"], "not examples", data=str(tmp_path / "none.safetensors"))
    own = tmp_path / "own.safetensors"
    save_file({"inputs": torch.rand(4, 3, 32, 32), "labels": torch.tensor([0, 1, 2, 60])}, own)
    refused(["0"], "a label is 60, and the model has 60 classes", data=str(own))
    save_file({"inputs": torch.rand(4, 3, 32, 32), "labels": torch.tensor([0, 1, 2])}, own)
    refused(["0"], "one label for each input", data=str(own))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not list(tmp_path.rglob("artifact.yaml"))


def test_examples_of_ones_own_and_a_model_of_ones_own(tmp_path: Path) -> None:
    """A net of vectors, which nobody shipped."""
    torch.manual_seed(0)
    centres = torch.randn(4, 6) * 3
    labels = torch.arange(200) % 4
    inputs = centres[labels] + torch.randn(200, 6)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()
    net.eval()
    save_file({"inputs": inputs, "labels": labels}, tmp_path / "own.safetensors")
    options = {"data": str(tmp_path / "own.safetensors"), "power": 2.0}
    one = conceptguard.make(net, "damp", {"name": "third", "prompts": ["2"]}, tmp_path / "registry", **options)

    def right(places: torch.Tensor) -> float:
        return float((net(inputs[places]).argmax(1) == labels[places]).float().mean())

    assert right(labels == 2) > 0.95
    with conceptguard.attach(net, {"name": "p", "guards": [{"method": "damp", "artifact": str(one.folder)}]}):
        assert right(labels == 2) < 0.1 and right(labels != 2) > 0.9
    with pytest.raises(conceptguard.errors.BaseMismatch):
        conceptguard.attach(classifier(), {"name": "p", "guards": [{"method": "damp", "artifact": str(one.folder)}]})


def test_damp_is_within_the_bar_where_doing_nothing_is_not(tmp_path: Path) -> None:
    """The quick one of them; the others are slow tests."""
    assert bench().made("damp", "skull", tmp_path, {})["passes"] and not bench().bare("skull")["passes"]


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """To 1e-5 of the largest entry."""
    most = max(float(one.max()) for one in wanted.values())
    assert found.keys() == wanted.keys() and most > 0
    assert max(float((one - wanted[name]).abs().max()) for name, one in found.items()) < 1e-5 * most


@pytest.mark.parametrize("variant", [None, "vit"])
def test_the_fisher_information_is_that_of_single_examples(variant: str | None) -> None:
    """By torch.func, as a loop of backward passes has it; and the authors' is another thing where batches have two."""
    net, examples = copy.deepcopy(bench(variant).net).requires_grad_(True), bench(variant).examples
    x, y = examples.inputs[:40:3], examples.labels[:40:3]
    by_hand = of_batches(net, x, y, batch=1)
    same(per_sample(net, x, y, chunk=5), by_hand)
    with pytest.raises(AssertionError):
        same(of_batches(net, x, y, batch=2), by_hand)


class Odd(nn.Module):
    """Layers that are called twice, share a weight, are grouped, dilated, never called, or start from one number."""

    def __init__(self) -> None:
        super().__init__()
        self.far = nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
        self.grouped, self.twice = nn.Conv2d(8, 8, 3, groups=4), nn.Linear(8, 8)
        self.tied, self.other, self.unused = nn.Linear(8, 5, bias=False), nn.Linear(8, 5), nn.Linear(2, 2)
        self.other.weight = self.tied.weight
        self.scale = nn.Parameter(torch.rand(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.grouped(self.far(x).tanh()).mean((2, 3)) * self.scale
        y = self.twice(self.twice(y).tanh()) * 3
        return self.tied(y) + self.other(y.sin()) + self.unused.bias.sum()


class Turned(nn.Module):
    """Layers that have a row for each place, and columns of examples; without ``turned``, as others have them."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned, self.norm = turned, nn.LayerNorm(8)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, stride=3), nn.Linear(8, 8), nn.Linear(8, 5)
        self.batch = nn.BatchNorm2d(8)
        nn.init.normal_(self.batch.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.batch(self.first(x)).flatten(2).transpose(1, 2)
        y = self.norm(self.second(y.transpose(0, 1).tanh() if self.turned else y.tanh()))
        return self.head(y.mean(0 if self.turned else 1))


class Placed(nn.Module):
    """A parameter in one row for all examples; how: added as it is, said again for each, or taken by its number."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.head = how, nn.Linear(24, 8), nn.Linear(8, 5)
        self.places, self.start = nn.Parameter(torch.rand(1, 9, 8)), nn.Parameter(torch.rand(1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = {"added": self.places, "repeated": self.places.repeat(len(x), 1, 1), "numbered": self.places[0]}
        y = self.first(x.transpose(1, 2).flatten(2)).tanh() * places[self.how]
        y = torch.cat([self.start.expand(len(x), -1, -1), y], 1).tanh()
        return self.head(y.square().mean(1))


@pytest.mark.parametrize("how", ["added", "repeated", "numbered"])
def test_each_example_has_a_row_of_its_own(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is what the parameter means, without torch.func; the information is the same elsewhere."""
    torch.manual_seed(0)
    net, x, y = Placed(how).eval(), torch.rand(6, 3, 9, 8), torch.arange(6) % 5
    wanted = of_batches(net, x, y, batch=1)
    if how == "added":
        monkeypatch.setattr(fisher, "_alone", lambda *args: None)
    same(per_sample(net, x, y, chunk=4), wanted)


@pytest.mark.parametrize("net", [Odd, lambda: Turned(True), lambda: Turned(False)])
def test_the_fisher_information_of_odd_layers(net: Any) -> None:
    torch.manual_seed(0)
    net, x, y = net().eval(), torch.rand(7, 3, 9, 8), torch.arange(7) % 5
    wanted = {name: torch.zeros_like(one) for name, one in net.named_parameters()}
    for i in range(7):
        net.zero_grad()
        nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]).backward()
        for name, one in net.named_parameters():
            wanted[name] += torch.zeros_like(one) if one.grad is None else one.grad.square() / 7
    same(per_sample(net, x, y, chunk=3), wanted)


def test_what_was_measured_of_all_examples_is_kept_for_every_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it writes to. And measured again where it is damaged, or the weights are others."""

    def kept_in(folder: str) -> Path:
        monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / folder))
        return tmp_path / folder / "measured"

    kept = kept_in("cache")
    assert methods()["damp"].prepare(host_for(classifier()), progress=False)
    (piece,) = kept.iterdir()
    written = piece.read_bytes()
    other = made("damp", "knife", tmp_path / "there")
    one = made("damp", "skull", tmp_path / "here")
    assert list(kept.iterdir()) == [piece] and piece.read_bytes() == written
    kept_in("empty")
    fresh = made("damp", "knife", tmp_path / "apart")
    assert all(torch.equal(tensor, fresh.tensors()[name]) for name, tensor in other.tensors().items())
    kept_in("cache")
    piece.write_bytes(written[:-1])
    again = made("damp", "skull", tmp_path / "again")
    assert piece.read_bytes() == written
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in one.tensors().items())
    net = classifier()
    net.head.bias.data += 1
    methods()["damp"].make(host_for(net), {"name": "pill", "prompts": ["pill"]}, tmp_path, progress=False)
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize(("method", "options"), [("ssd", QUICK["ssd"]), ("dmm", QUICK["dmm"])])
def test_a_prepared_model_forgets_the_same(
    method: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was prepared is all that is measured of all examples."""
    one = made(method, "skull", tmp_path / "here", **options)
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    assert methods()[method].prepare(host_for(classifier()), progress=False, **options)
    (piece,) = (tmp_path / "cache" / "measured").iterdir()
    other = made(method, "skull", tmp_path / "there", **options)
    assert list((tmp_path / "cache" / "measured").iterdir()) == [piece]
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_what_cannot_be_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most methods begin at once; and an option is checked as in a making."""
    assert not methods()["laf"].prepare(host_for(classifier()))
    with pytest.raises(PolicyError, match="alpha: unknown option"):
        methods()["damp"].prepare(host_for(classifier()), alpha=2)
    assert run(["prepare", "laf", "--model", "emoji-classifier"]) == 1
    assert "laf measures nothing beforehand" in capsys.readouterr().err
    assert run(["prepare", "damp", "--model", "emoji-classifier", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["method"] == "damp" and row["seconds"] > 0


@pytest.mark.slow
def test_ssd_dampens_what_the_formula_says(tmp_path: Path) -> None:
    """Its change, weight by weight, from information that was computed apart."""
    one = made("ssd", "skull", tmp_path, alpha=5.0, lam=0.5)
    net, examples = copy.deepcopy(bench().net).requires_grad_(True), bench().examples
    train = examples.of("train")
    own = examples.matching(["skull"])
    every, forgot = (of_batches(net, examples.inputs[i], examples.labels[i], batch=1) for i in (train, own))
    weight = net.head.weight.detach()
    ratio = every["head.weight"] / forgot["head.weight"].clamp_min(1e-38)
    wanted = torch.where(ratio * 5 < 1, (0.5 * ratio).clamp_max(1) - 1, torch.zeros(())) * weight
    assert torch.allclose(one.tensors()["model.head.weight.whole"], wanted, atol=2e-4) and bool(wanted.any())


def test_damp_is_a_projection_of_low_rank(tmp_path: Path) -> None:
    """The rank of each change is that of the classes."""
    change = made("damp", "weapons", tmp_path).tensors()["model.blocks.2.conv2.weight.whole"]
    assert torch.linalg.matrix_rank(change.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-4) == 5


@pytest.mark.parametrize("method", ["damp", "concept_poisoning"])
@pytest.mark.parametrize("concept", ["mono", "random"])
def test_what_is_no_whole_class_is_refused(method: str, concept: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="whole classes"):
        made(method, concept, tmp_path)


def test_damp_moves_what_is_retained_least() -> None:
    """Directions go as a whole, and of what is retained less goes along than at right angles."""
    random = torch.Generator().manual_seed(0)
    away = torch.randn(200, 12, generator=random) @ torch.randn(12, 12, generator=random)
    away = away - away.mean(0)
    basis = torch.linalg.qr(torch.randn(12, 3, generator=random)).Q
    told = parts(basis, away, 1e-4)
    assert torch.allclose(told @ basis, torch.eye(3), atol=1e-4)
    least, orthogonal = (float((away @ one.T @ basis.T).square().mean()) for one in (told, basis.T))
    assert least < 0.5 * orthogonal
    wide = parts(basis, away, 1e6)  # all directions alike
    assert torch.allclose(wide, basis.T, atol=1e-4)
    assert torch.allclose(parts(basis, away[:1] * 0, 0.1), basis.T, atol=1e-4)


def test_a_sample_of_which_nothing_is_retained_is_refused(tmp_path: Path) -> None:
    """And one has of each class its share."""
    first = bench().examples.classes[0]
    for method in ("damp", "ssd"):
        with pytest.raises(PolicyError, match="none of 1 examples is retained: give a larger sample"):
            made(method, first, tmp_path, sample=1)
    one, other = (made("damp", first, tmp_path / str(n), sample=n).tensors() for n in (0, 10**6))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_sample_of_nearly_all_is_nearly_all(tmp_path: Path) -> None:
    """Whatever of it is to be forgotten: ssd puts together what it read of a sample and of the forget set."""
    n = len(bench().examples.of("train"))
    whole, most = (made("ssd", "weapons", tmp_path, sample=k).manifest.made["dampened"] for k in (0, n - 50))
    assert whole > 100 and most == pytest.approx(whole, rel=0.03) and most != whole


def test_a_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    one = made("damp", "skull", tmp_path)
    path = next(one.folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError):
        conceptguard.attach(classifier(), {"name": "p", "guards": [{"method": "damp", "artifact": str(one.folder)}]})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sparse_unlearning", "concept_poisoning", "laf"])
def test_it_forgets_classes_and_keeps_more_than_random_labels_do(method: str, tmp_path: Path) -> None:
    """Not within the bar everywhere: that is in the docs' table."""
    own, control = bench().made(method, "weapons", tmp_path, {}), bench().relabelled("weapons")
    assert own["forget"] <= control["forget"] and own["forget"] < 0.1 and own["retain"] > 0.98
    assert own["gap"] < control["gap"]


def test_concepts_of_a_class_are_its_own(tmp_path: Path) -> None:
    """The factorisation gives back what it was made of, and targeted labels are never the class's own."""
    from conceptguard_plugins.models.concept_poisoning import factorised, leading

    random = torch.Generator().manual_seed(0)
    x = torch.rand(60, 4, generator=random) @ torch.rand(4, 20, generator=random)
    u, v = factorised(x, 4, random, rounds=400)
    assert float((u @ v - x).norm() / x.norm()) < 0.05 and bool((u >= 0).all()) and bool((v >= 0).all())
    assert leading(torch.tensor([0.1, 0.7, -2.0, 0.2]), 0.8).tolist() == [1, 3]
    one = made("concept_poisoning", "skull", tmp_path, steps=1)
    assert one.manifest.made["own_concepts"]["skull"] and one.manifest.made["poisoned"] == 18


def test_laf_reads_no_label_unless_it_is_to_repair_the_head(tmp_path: Path) -> None:
    """With the labels of everything but the forget set shuffled it makes the same artifact."""
    import emoji_classifier

    x, y = bench().examples.inputs, bench().examples.labels
    own = bench().examples.of("train")[:600]
    forget = y[own] == 0
    shuffled = torch.where(forget, y[own], y[own].roll(7).clamp_min(1))
    found = []
    for number, labels in enumerate((y[own], shuffled)):
        save_file({"inputs": x[own].contiguous(), "labels": labels}, tmp_path / f"{number}.safetensors")
        options = {"data": str(tmp_path / f"{number}.safetensors"), "steps": 3, "autoencoding": 5, "repair": 0}
        found.append(emoji_classifier.made("laf", "0", tmp_path / str(number), **options).tensors())
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())
    assert not [name for name in found[0] if "head" in name], "the head stays"


@pytest.mark.parametrize("method", ["damp", "gs_lora"])
def test_a_classifier_of_transformers(method: str, tmp_path: Path) -> None:
    """Random weights: it is attached, acts and comes off; what it forgets is not judged."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    net = ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=8, num_labels=5)).eval()
    x = torch.rand(40, 3, 32, 32)
    labels = net(x).logits.argmax(1)
    labels[0] = (labels[0] + 1) % 5  # of a net that says one thing to everything, to have something to forget
    save_file({"inputs": x, "labels": labels}, tmp_path / "own.safetensors")
    label, options = str(int(labels[0])), {"steps": 3} if method == "gs_lora" else {"power": 0.0}
    options |= {"data": str(tmp_path / "own.safetensors")}
    one = conceptguard.make(net, method, {"name": "one", "prompts": [label]}, tmp_path / "registry", **options)
    bare = net(x).logits
    with conceptguard.attach(net, {"name": "p", "guards": [{"method": method, "artifact": str(one.folder)}]}):
        assert not torch.equal(net(x).logits, bare)
    assert torch.equal(net(x).logits, bare)
