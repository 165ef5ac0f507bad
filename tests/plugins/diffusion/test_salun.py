"""SalUn: which weights may move, that no others do, and what the concept is taken for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.salun import SalUn, SalUnMakeSettings, salient
from trained import demand_erased, demand_gated_on_a_flow, opened, torn, weights

from conceptguard.errors import ArtifactError
from conceptguard.formats import read_artifact
from conceptguard.generation.conditioning import stack
from conceptguard.making.noising import noised
from conceptguard.making.pictures import drawn
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

BEER = {"name": "beer", "prompts": ["beer"]}
SOME: dict[str, Any] = {"steps": 12, "shots": 4, "views": 8, "templates": ["{}", "{a}"], "preserve": ["milk"]}

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, out: Path, concept: Any = BEER, **options: Any) -> Artifact:
    return SalUn.make(host_for(pipe), concept, out, **{**SOME, "progress": False, **options})


def changes(pipe: Any, made: Artifact) -> dict[str, torch.Tensor]:
    terms = read_artifact(made, host_for(pipe).layers())
    return {name: scale * up.float() @ down.float() for name, (down, up, scale) in terms.items()}


def test_the_largest_gradients_of_all_layers_together() -> None:
    gradients = [torch.tensor([[1.0, -8.0], [2.0, 3.0]]), torch.tensor([[-9.0, 0.5]])]
    first, second = salient(gradients, 0.5)
    assert first.tolist() == [[0, 1], [0, 1]] and second.tolist() == [[1, 0]], "sizes, not signs; not half of each"
    assert all(mask.all() for mask in salient(gradients, 1.0))


def test_nothing_else_moves(pipe: Any, tmp_path: Path) -> None:
    """A tenth of the weights of 'strict', to the bit; with all of them no weight stays."""
    some = changes(pipe, make(pipe, tmp_path / "some", steps=3, share=0.1, layers="strict", shots=2))
    moved = sum(int((change != 0).sum()) for change in some.values()) / sum(one.numel() for one in some.values())
    assert 0.08 < moved <= 0.101
    every = changes(pipe, make(pipe, tmp_path / "every", steps=3, share=1.0, layers="strict", shots=2))
    assert sum(int((one == 0).sum()) for one in every.values()) < 0.01 * sum(one.numel() for one in every.values())


def test_the_concept_is_taken_for_its_anchor_and_the_anchor_stays(pipe: Any, tmp_path: Path) -> None:
    made = make(pipe, tmp_path, steps=20)
    assert made.manifest.made["anchor"] == "milk" and made.manifest.made["truncation_error"] == 0.0
    host = host_for(pipe)
    denoiser, random = host.denoiser(), torch.Generator().manual_seed(9)
    beer, milk, nothing = (host.encode([text]) for text in ("a beer", "a milk", ""))
    clean = drawn(denoiser, beer, nothing, 1, random)
    times = torch.tensor([600])
    latents, _ = noised(denoiser, clean, torch.randn(clean.shape, generator=random), times)

    def said(terms: Artifact | None) -> tuple[torch.Tensor, ...]:
        with opened(pipe, terms, 2):
            return denoiser(torch.cat([latents] * 2), times.repeat(2), stack(beer, milk)).float().chunk(2)

    before, goal = said(None)
    after, held = said(made)
    apart = (before - goal).pow(2).mean()
    assert (after - goal).pow(2).mean() < 0.5 * apart
    assert (held - goal).pow(2).mean() < 0.5 * apart


def test_a_cut_change_says_what_it_lost(pipe: Any, tmp_path: Path) -> None:
    cut = make(pipe, tmp_path, steps=3, layers="strict", rank=4)
    assert 0 < cut.manifest.made["truncation_error"] < 1
    assert all(down.shape[0] == 4 for down, _, _ in read_artifact(cut, host_for(pipe).layers()).values())
    assert SalUnMakeSettings().rank is None


def test_an_interrupted_training_ends_with_the_same_bits(pipe: Any, tmp_path: Path) -> None:
    few: dict[str, Any] = {"steps": 4, "layers": "strict", "shots": 2, "views": 4}
    whole = make(pipe, tmp_path / "whole", **few)
    torn(2, partial(make, pipe, tmp_path / "torn", **few))
    assert weights(make(pipe, tmp_path / "torn", **few)) == weights(whole)


def test_bad_input_is_named(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="lower lr"):
        make(pipe, tmp_path, lr=1e30, layers="strict")


def test_on_a_flow(tmp_path: Path) -> None:
    water = {**BEER, "replacement": "water"}
    made = demand_gated_on_a_flow(lambda flow: make(flow, tmp_path, steps=3, concept=water, preserve=[]), "a beer")
    assert made.manifest.made["anchor"] == "water"


@pytest.mark.slow
def test_erased_as_the_judge_sees_it(pipe: Any, tmp_path: Path) -> None:
    """Against the same prompts without the guard; another object stays to the last bit."""
    made = make(pipe, tmp_path, **{key: value for key, value in SalUnMakeSettings() if key != "templates"})
    demand_erased(pipe, made, "beer", ["a beer, noto style", "fluent beer"], "a dog, noto style", 5)
