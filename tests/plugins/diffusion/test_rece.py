"""RECE on a real pipeline: what it derives brings the concept back before, and no longer after; when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.rece import RECE, RECEMakeSettings
from random_artifacts import terms_of
from torch import Tensor

import conceptguard
from conceptguard.concept import as_concept
from conceptguard.errors import PolicyError
from conceptguard.making.edits import Edit, Problem, brought_back, products
from conceptguard.making.task import Learned, Task
from conceptguard.plugins import host_for, method

BEER = {"name": "beer", "prompts": ["beer", "a glass of beer"], "replacement": "milk"}


def learnt(pipe: Any, name: str, **options: Any) -> tuple[Learned, Problem]:
    """What a maker makes, and the equations it was asked to solve."""
    maker = method(name)
    settings = maker.MakeSettings(**options)
    task = Task(host_for(pipe), as_concept(BEER), ["coffee"], settings, 0, Path("beer"), name, shown=False)
    return maker.learn(task), Problem.of(task, settings.templates, settings.tokens)


def transform(learned: Learned, pipe: Any, weights: dict[str, Tensor]) -> Tensor:
    """T [d, d], from an artifact's terms: least squares over all layers."""
    terms = terms_of(learned, pipe)
    ups = torch.cat([terms[name].up.double() for name in weights])
    whole = torch.cat([w.double() for w in weights.values()])
    down = next(iter(terms.values())).down.double()
    return torch.eye(down.shape[1], dtype=torch.float64) + torch.linalg.lstsq(whole, ups).solution @ down


def test_what_brings_the_concept_back_is_erased(pipe: Any) -> None:
    """Derived against the first edit, it gives the keys and values of a beer; after a round it gives those of milk, as
    it does where it was derived from a wording that nothing was solved with."""
    first, problem = learnt(pipe, "uce")
    last, _ = learnt(pipe, "rece", synonyms=0)  # of the words that the first edit had as well
    weights, rows = problem.streams[0].weights, problem.rows["states"]
    whole = torch.cat([w.double() for w in weights.values()])
    gram = products(whole, whole)
    apart = host_for(pipe).encode(["a drawing of beer", "a drawing of milk"]).embeds.double()[:, 4:]
    before, after = transform(first, pipe, weights), transform(last, pipe, weights)
    for own, guide in ((rows.erased.double(), rows.guide.double()), (apart[0], apart[1])):
        edit = Edit(before - torch.eye(len(before), dtype=torch.float64), torch.eye(len(before), dtype=torch.float64))
        derived = brought_back(edit, gram, own, 0.1 * float(gram.diagonal().mean()))

        def size(rows: Tensor) -> float:
            return float(((rows @ gram) * rows).sum().sqrt())

        way = size(own - guide)
        assert size(derived @ before.T - own) < 0.6 * way, "it brings the concept back"
        assert size(derived @ after.T - own) > 0.9 * way, "no longer"


def test_rounds_end_where_they_gain_nothing_or_move_too_much(pipe: Any) -> None:
    told = learnt(pipe, "rece")[0].made["rounds"]["states"]
    assert 2 <= len(told) <= 4 and all(one["blocked"] > 0.5 < one["returned"] for one in told[1:])
    assert told[-1]["moved"] <= 2 * told[0]["moved"]
    gains = [len(learnt(pipe, "rece", gain=gain, moves=9.0)[0].made["rounds"]["states"]) for gain in (1.0, 0.5)]
    assert gains[0] == 1 < gains[1]
    last = learnt(pipe, "rece", tokens="last", moves=99.0)[0].made["rounds"]["states"]
    assert len(last) == 4 and last[-1]["returned"] < 0.5 * last[0]["returned"], "what can be brought back becomes less"
    assert len(learnt(pipe, "rece", moves=0.0)[0].made["rounds"]["states"]) == 1
    assert len(learnt(pipe, "rece", moves=9.0, rounds=2)[0].made["rounds"]["states"]) == 3


def test_wordings_are_kept_apart(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="keep at least one apart"):
        RECE.make(host_for(pipe), BEER, tmp_path, templates=["{}", "a {}"], validation=["a {}"])
    with pytest.raises(PolicyError, match="no place for the concept"):
        RECE.make(host_for(pipe), BEER, tmp_path, validation=["a photo"])
    assert RECEMakeSettings().validation and not any(tmp_path.iterdir())


def test_gated_by_the_prompt(pipe: Any, tmp_path: Path) -> None:
    artifact = RECE.make(host_for(pipe), BEER, tmp_path, preserve=["coffee"])

    def draw() -> Tensor:
        seeds = [torch.Generator().manual_seed(i) for i in range(2)]
        found: Tensor = pipe(
            ["a red apple", "a beer"], num_inference_steps=2, generator=seeds, output_type="latent"
        ).images
        return found

    bare = draw()
    with conceptguard.attach(pipe, {"name": "t", "guards": [{"method": "rece", "artifact": str(artifact.folder)}]}):
        got = draw()
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)
