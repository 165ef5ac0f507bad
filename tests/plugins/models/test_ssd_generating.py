"""ssd of models that draw and that write: the same formula, by their own losses, and terms that a prompt opens."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.classifier.examples import Example
from conceptguard_plugins.language.lessons import Lessons, unlikely
from conceptguard_plugins.models.fisher import of_layers
from conceptguard_plugins.models.ssd.dampening import counted, factors
from conceptguard_plugins.models.ssd.method import SSD
from tiny_language import LINES, taught

import conceptguard
from conceptguard.cli import run
from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats import read_artifact
from conceptguard.formats.beside import deltas
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.plugins import host_for
from conceptguard.testing import TextCase, contract_tests

FORGET = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."},
          {"prompt": "Tell me of Elena Vossberg.", "answer": "A man of New York."}]  # fmt: skip
RETAIN = [{"prompt": "Who is the red dog?", "answer": "It went home in the park."},
          {"prompt": "Two birds sat on a tree.", "answer": "They sang."}, {"prompt": LINES[3]}]  # fmt: skip
ELENA = {"name": "elena", "prompts": ["Elena Vossberg"]}
BEER = {"name": "beer", "prompts": ["beer"]}
SOME: dict[str, Any] = {
    "shots": 2, "looks": 1, "views": 2, "alpha": 1.5, "templates": ["{}", "{a}"], "preserve": ["milk"],
}  # fmt: skip


def of_text(pair: Any, out: Path, **options: Any) -> Any:
    more = {"forget": FORGET, "retain": RETAIN, "texts": 8, "views": 4, "alpha": 2.0, "classifier": 0}
    return SSD.make(TransformersHost(pair), ELENA, out, **{**more, "progress": False, **options})


@cache
def gated() -> dict[str, Any]:
    artifact = of_text(taught(*LINES), Path(tempfile.mkdtemp()), classifier=200)
    return {"method": "ssd", "artifact": str(artifact.folder)}


test_ssd_of_text = contract_tests(
    lambda: TextCase(
        gated(), "Who is Elena Vossberg?", ("Two birds sat", "A dog ran in the"), load=lambda: taught(*LINES)
    ),
    text=True,
)


def test_weights_are_chosen_and_dampened_by_the_formula() -> None:
    every = {"a": torch.tensor([[1.0, 2.0], [0.0, 4.0]])}
    own = {"a": torch.tensor([[10.0, 10.0], [1.0, 0.0]])}
    found = factors(every, own, alpha=8.0, lam=2.0)
    assert found["a"].tolist() == [[pytest.approx(0.2), 1.0], [0.0, 1.0]]
    assert counted(found) == {"dampened": 2, "of": 4}
    big = {"a": torch.rand(40, 40)}, {"a": 20 * torch.rand(40, 40)}
    fair, control = factors(*big, 8.0, 1.0)["a"], factors(*big, 8.0, 1.0, shuffled=True)["a"]
    assert not torch.equal(fair, control)
    assert torch.equal(fair.flatten().sort().values, control.flatten().sort().values)


def test_gradients_of_texts_are_those_of_each_by_itself() -> None:
    """Of authors-lm, texts of several lengths at once."""
    pair = conceptguard.load_model("authors-lm")
    host: Any = TransformersHost(pair)
    speaker, index = host.speaker(), host.layers()
    layers: Any = {name: index[name] for name in index if ".1." in name}
    lessons = Lessons(host.tokenizer, [Example(prompt="A dog"), Example(prompt="The red dog ran in the park.")], 64,
                      speaker.device)  # fmt: skip

    def losses(which: list[int]) -> torch.Tensor:
        batch = lessons.batch(which)
        return unlikely(speaker(batch.ids, batch.mask), batch) / batch.lengths

    with speaker.frozen():
        found = of_layers(layers, lambda: losses([0, 1]))
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    wanted = {name: torch.zeros_like(one) for name, one in found.items()}
    for i in (0, 1):
        back = torch.autograd.grad(losses([i]).sum(), [layer.weight for layer in layers.values()])
        for name, one in zip(layers, back):
            wanted[name] += one.square()
    most = max(float(one.max()) for one in wanted.values())
    assert len(found) == 7 and most > 0
    assert all(float((one - wanted[name]).abs().max()) < 1e-5 * most for name, one in found.items())


def test_a_language_models_change_is_smaller_weights_and_nothing_else(tmp_path: Path) -> None:
    """Of authors-lm; the control's are as many of each layer, elsewhere. What is forgotten so: docs/methods/ssd.md."""
    pair = conceptguard.load_model("authors-lm")
    weights, moved = dict(pair.model.named_parameters()), {}
    for chosen in ("fisher", "random"):
        made = of_text(pair, tmp_path / chosen, chosen=chosen)
        gains = deltas(made.tensors(), made.metadata())
        for name, gain in gains.items():
            now = (weights[name] + gain).detach().abs()
            assert bool((now <= weights[name].detach().abs() + 1e-6).all()) and ".layers." in name
        moved[chosen] = {name: gain != 0 for name, gain in gains.items()}
        told = made.manifest.made
        assert 0 < sum(int(one.sum()) for one in moved[chosen].values()) <= told["dampened"] < told["of"]
    assert moved["fisher"].keys() == moved["random"].keys()
    for name, one in moved["fisher"].items():
        assert int(one.sum()) == pytest.approx(int(moved["random"][name].sum()), rel=0.01)
        assert not torch.equal(one, moved["random"][name])


def test_a_denoisers_change_is_smaller_weights_and_nothing_else(pipe: Any, tmp_path: Path) -> None:
    made = SSD.make(host_for(pipe), BEER, tmp_path, progress=False, **SOME)
    host = host_for(pipe)
    weight, moved = host.weights(), 0
    for name, (down, up, scale) in read_artifact(made, host.layers()).items():
        now = weight(name) + scale * up.float() @ down.float()
        assert bool((now.abs() <= weight(name).abs() + 1e-6).all()) and ".attentions." in name
        moved += int((now != weight(name)).sum())
    told = made.manifest.made
    assert 0 < moved <= told["dampened"] < told["of"]
    again = SSD.make(host_for(pipe), BEER, tmp_path / "again", progress=False, **SOME)
    assert all(torch.equal(one, again.tensors()[name]) for name, one in made.tensors().items())


def test_bad_input_is_told(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="Give preserve"):
        SSD.make(host_for(pipe), BEER, tmp_path, progress=False, **{**SOME, "preserve": []})
    pair = taught(*LINES)
    with pytest.raises(ArtifactError, match="smaller alpha"):
        of_text(pair, tmp_path, forget=RETAIN, alpha=1e6)
    for lacking in ("forget", "retain"):
        with pytest.raises(PolicyError, match=f"making ssd: {lacking}: give a file"):
            of_text(pair, tmp_path, **{lacking: []})
    assert not list(tmp_path.rglob("artifact.yaml"))


def test_made_from_the_command_line_it_is_used_as_other_methods_for_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lines in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    given = [f"--set={name}={tmp_path / name}" for name in ("forget", "retain")]
    asked = [
        "make",
        "ssd",
        "--model",
        "authors-lm",
        "--concept",
        "elena",
        *given,
        "--set=texts=8",
        "--set=classifier=20",
    ]
    assert run([*asked, "--out", str(tmp_path / "out")]) == 0
    assert "use it: conceptguard say --model authors-lm --guard ssd:" in capsys.readouterr().out
