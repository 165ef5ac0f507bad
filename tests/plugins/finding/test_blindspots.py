"""What one set of pictures shows more of than another; and of two halves of one set, nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conceptguard_plugins.finding.blindspots import _pairs, agreed, train
from small_planted import planted, search

from conceptguard.errors import PolicyError
from conceptguard.finder import PictureSet
from conceptguard.finding.crops import part
from conceptguard.finding.judged import area
from conceptguard.finding.pictures import beside
from conceptguard.measuring.samples import Recipe
from conceptguard.plugins import offers

BLINDSPOTS = {"concepts": 24, "steps": 800}


def compared(classes: list[str], pictures: PictureSet | None = None, **more: Any) -> Any:
    pictures = pictures or planted().pictures
    asked = search("blindspots", replace(pictures, classes=classes), **(BLINDSPOTS | more))
    return offers("finders")["blindspots"].find(asked)


def test_what_was_put_in_is_exaggerated() -> None:
    marked = planted().truths["mark"]
    result = compared(["generated" if one else "real" for one in marked.tolist()], real="real")
    more = [(row, one) for row, one in zip(result.rows, result.concepts) if row["delta"] > 0.5]
    assert more and max(area(one.scores, marked) for _, one in more) >= 0.9
    turned = compared(["generated" if one else "real" for one in marked.tolist()], real="generated")
    assert any(row["delta"] < 0.5 and area(one.scores, marked) >= 0.9 for row, one in zip(turned.rows, turned.concepts))


def test_halves_of_one_set_differ_in_next_to_nothing() -> None:
    """Chance is no side effect: 24 concepts, and two and a half standard errors."""
    assert len(compared(["a", "b"] * 24).concepts) <= 2


def test_directions_are_mixtures_of_what_there_is() -> None:
    rows = torch.nn.functional.normalize(torch.rand(400, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    model = train(rows, 10, 2, 100, torch.Generator().manual_seed(0), lambda step, loss: None)
    shares = model.shares.relu() / model.shares.relu().sum(1, keepdim=True)
    apart = model.directions() / model.size.exp() - shares @ model.archetypes
    assert float(apart.norm(dim=1).max()) <= 1 + 1e-5, "no farther from a mixture than the relaxation allows"
    assert float(shares.topk(2).values[:, 1].max()) > 0.05, "more than the archetype that one began at"


def test_what_most_runs_find_is_found() -> None:
    random = torch.Generator().manual_seed(0)
    own = torch.rand(3, 300, 4, generator=random)
    thing = torch.rand(300, generator=random)
    own[0, :, 2], own[2, :, 1] = thing, 3 * thing + 0.1 * torch.rand(300, generator=random)
    found = agreed(list(own))
    assert found.shape == (300, 1) and float(torch.corrcoef(torch.stack([found[:, 0], thing]))[0, 1]) > 0.99
    assert agreed(list(own[:2])).shape == (300, 0) and agreed([own[0]]).shape == (300, 4)


@pytest.mark.parametrize("name", ["{of}/{i}", "{i}, {of}"])
def test_pictures_of_one_name_belong_together(name: str) -> None:
    """As a folder of two names them, and as they are named that are drawn without and under a policy."""
    classes = ["a", "a", "b", "b"]
    names = [name.format(of=of, i=i % 2) for i, of in enumerate(classes)]
    real = torch.tensor([True, True, False, False])
    assert _pairs(PictureSet(torch.zeros(4, 3, 2, 2), names, classes), real) == [(0, 2), (1, 3)]
    assert _pairs(PictureSet(torch.zeros(4, 3, 2, 2), [*names[:3], "other"], classes), real) == []


def test_two_classes_are_compared() -> None:
    with pytest.raises(PolicyError, match=r"compares two classes of pictures, and these are of 0 \(not sorted\)"):
        compared([""] * 48)
    with pytest.raises(PolicyError, match=r"real=NAME of one"):
        compared(["a", "b"] * 24, real="c")


@pytest.mark.slow
def test_a_guard_suppresses_its_concept_and_little_else(pipe: Any) -> None:
    """The embedded model without and under an edit of one of five things that are asked for."""
    prompts = [f"a {name}, noto style" for name in ("beer", "dog", "car", "sunflower", "guitar")]
    policy = {"guards": [{"method": "uce", "artifact": "emoji-sd/uce/beer"}]}
    pictures = beside(pipe, policy, prompts, 40, Recipe(12))
    assert list(pictures.classes) == ["without"] * 40 + ["under"] * 40
    result = offers("finders")["blindspots"].find(search("blindspots", pictures, **BLINDSPOTS))
    asked_for = torch.tensor([i % 5 == 0 for i in range(40)])
    less = [one for row, one in zip(result.rows, result.concepts) if row["delta"] < 0.5]
    assert less and max(area(one.scores[:40], asked_for) for one in less) >= 0.9
    others = part(pictures, [i for i in range(80) if i % 5])
    assert len(compared(list(others.classes), others).concepts) <= 2
