"""What judges a classifier: each measure tells a model that forgot from one that did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from emoji_classifier import FOLDER, NAME, bench, classifier

from conceptguard import RegistryError
from conceptguard.cli import run
from conceptguard.making.examples import load_examples
from conceptguard.making.fit import Recipe, fit
from conceptguard.measuring.classifier.evaluate import Judging
from conceptguard.measuring.classifier.measures import auc, margins, membership, probe
from conceptguard.measuring.classifier.references import load_references


def test_the_model_is_what_it_says() -> None:
    net, examples = classifier(), load_examples(FOLDER)
    assert len(net.classes) == 60 and net.name == "emoji-classifier" and not net.training
    assert not [
        path for path in FOLDER.iterdir() if path.suffix not in {".json", ".yaml", ".png", ".safetensors", ".md"}
    ]
    judging = Judging.of(examples, ["skull"])
    named = judging.measured(net).named
    assert judging.right(named, examples.of("train")) > 0.99
    assert judging.right(named, examples.of("unseen")) > 0.6, "in styles that it never saw"
    vit = classifier("vit")
    assert (
        vit.name == "emoji-classifier-vit" and judging.right(judging.measured(vit).named, examples.of("unseen")) > 0.5
    )
    with pytest.raises(RegistryError, match="no net 'vgg'"):
        classifier("vgg")


def test_examples_are_the_same_each_time_and_kept_apart() -> None:
    one, other = load_examples(FOLDER), load_examples(FOLDER)
    assert torch.equal(one.inputs, other.inputs) and one.keys == other.keys and len(set(one.keys)) == len(one.keys)
    train, held = (
        {key.rsplit("/", 1)[0] for key, s in zip(one.keys, one.splits) if s == split} for split in ("train", "held")
    )
    assert held and not train & held
    assert {key.split("/")[1] for key, s in zip(one.keys, one.splits) if s == "unseen"} == {"emojione", "noto-v1"}


def test_margins_auc_and_membership() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    found = margins(logits, torch.tensor([0, 1]))
    assert torch.allclose(
        found, torch.tensor([2 - 2 * 0 - torch.log(torch.tensor(2.0)), 1 - torch.tensor([0.0, 3.0]).logsumexp(0)])
    )
    assert (
        auc(torch.tensor([1.0, 2.0]), torch.tensor([0.0])) == 1 and auc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5
    )
    # An example that is hard for everybody is no member for being hard.
    own, others = torch.tensor([5.0, -3.0, 5.0, -3.0]), torch.tensor([[1.0, -7.0, 5.0, -3.0]])
    assert membership(own, others, torch.tensor([0, 1]), torch.tensor([2, 3])) == 1.0


def test_a_probe_reads_features_whatever_the_head_says() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 8, generator=random) + 4 * torch.nn.functional.one_hot(labels, 8)
    train, test = torch.arange(200), torch.arange(200, 300)
    assert probe(features, labels, train, test) > 0.95
    assert probe(torch.randn(300, 8, generator=random), labels, train, test) < 0.55


@pytest.mark.parametrize("concept", ["skull", "weapons", "mono", "random"])
def test_retrained_models_are_told_from_the_model_itself(concept: str) -> None:
    bare, other = bench().bare(concept), bench().retrained(concept)
    assert other["gap"] < 0.05 and not bare["passes"]
    assert bare["membership"] > other["membership"] + 0.1 and bare["margins"] > other["margins"]
    if concept in ("mono", "random"):  # of a class there are a handful of pictures, and chance shows
        assert abs(other["membership"] - 0.5) < 0.12
    if concept == "weapons":
        assert bare["forget"] > 0.99 and bare["re_forget"] == 0.0
        assert bare["re_probe"] > 0.2, "features of a model that never saw a class tell it apart nevertheless"


def test_the_control_of_random_labels_forgets_and_is_told() -> None:
    row = bench().relabelled("skull")
    assert row["forget"] < 0.2 and row["make_seconds"] > 0 and row["ratio"] < 1


def test_references_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="nothing was retrained without 'cat'"):
        load_references(FOLDER, "resnet", "cat")
    with pytest.raises(RegistryError, match="no retrained references"):
        load_references(tmp_path, "resnet", "skull")


def test_training_is_the_same_to_the_bit() -> None:
    from conceptguard.hosts.modules.nets import NETS

    examples = load_examples(FOLDER)

    def trained() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        net = NETS["resnet"](60)
        return dict(fit(net, examples.inputs[:128], examples.labels[:128], Recipe(1, 1e-3), seed=3).state_dict())

    one, other = trained(), trained()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    asked = ["eval", "--suite", "classifier", "--model", NAME, "--concepts", "skull"]
    assert run([*asked, "--method", "damp", "--json", str(out), "--check"]) == 0
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in rows] == ["retrained", "none", "relabel", "damp"]
    assert rows[3]["passes"] and rows[3]["ratio"] < 0.2 and rows[3]["bytes"] > 0
    assert "trained without it, 3 seeds" in capsys.readouterr().out
    assert run([*asked[:-1], "cat", "--method", "damp"]) == 1
    assert "no forget set 'cat' is judged: there are skull" in capsys.readouterr().err


def test_make_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ["make", "damp", "--model", NAME, "--concept", "skull", "--out", str(tmp_path)]
    assert run(made) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "emoji-classifier/damp/skull" in told and "eval --suite classifier" in told
    prompted = ["--model", str(FOLDER), "--policy", "none", "--prompt", "a dog"]
    for command in (["generate", *prompted, "--out", str(tmp_path / "a.png")], ["say", *prompted]):
        assert run(command) == 1 and "of the suite 'classifier', which nobody prompts" in " ".join(
            capsys.readouterr().err.split()
        )
    assert run([*made[:5], "zeppelin", *made[6:]]) == 1
    assert "no class 'zeppelin'" in capsys.readouterr().err
