"""Which concept decides which pictures, and how often that is right."""

from __future__ import annotations

from dataclasses import replace

import torch
from small_planted import planted, search

from conceptguard.finding.decides import rightly
from conceptguard.finding.page import page
from conceptguard.finding.strategies import strategies
from conceptguard.plugins import offers


def test_each_picture_belongs_to_what_counts_most() -> None:
    importance = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.6, 0.4, 0.0]])
    graph = strategies(["a", "b", "c"], importance, torch.tensor([True, False, True, True]))
    assert [(one.concept, one.prevalence, list(one.pictures)) for one in graph.strategies] == [
        ("a", 0.75, [0, 1, 3]), ("b", 0.25, [2]),
    ]  # fmt: skip
    assert abs(graph.strategies[0].reliability - 2 / 3) < 1e-6 and graph.of("c") is None
    assert graph.places is not None and graph.places.shape == (4, 2)
    alone = strategies(["a"], importance[:, :1], torch.ones(4, dtype=torch.bool))
    assert alone.strategies[0].prevalence == 1.0 and alone.places is not None and alone.places.shape == (4, 2)


def test_a_picture_is_decided_by_what_others_taught() -> None:
    """Rows that say nothing of their classes are told apart by heart, and otherwise by chance."""
    random = torch.Generator().manual_seed(0)
    wanted = torch.arange(60) % 2
    noise = torch.randn(60, 80, generator=random)
    classes = ["ab"[k] for k in wanted.tolist()]
    assert float(rightly(noise, classes).float().mean()) < 0.75
    assert bool(rightly(noise + 9 * wanted[:, None], classes).all())


def test_a_concept_whose_pictures_were_sorted_wrongly_is_red() -> None:
    finder, it = offers("finders")["lens"], planted()
    before = finder.find(search("lens"))
    first = before.strategies.strategies[0]
    assert sum(row["decides"] for row in before.rows) > 0.99
    classes = list(it.pictures.classes)
    names = sorted(set(classes))
    for row in list(first.pictures)[::2]:
        classes[row] = names[1 - names.index(classes[row])]
    after = finder.find(search("lens", replace(it.pictures, classes=classes)))
    of_them = [one for one in after.strategies.strategies if len(set(one.pictures) & set(first.pictures)) >= 2]
    wrong = sum(len(one.pictures) * (1 - one.reliability) for one in of_them)
    right = sum(len(one.pictures) * one.reliability for one in of_them)
    assert of_them and wrong / (wrong + right) > 1.5 * (1 - first.reliability)
    shown = page(before, it.pictures, [], {})
    assert shown.count('id="strategies"') == 1 and "<text x=" in shown and first.concept in shown


def test_pictures_that_nobody_sorted_have_none() -> None:
    it = planted()
    found = offers("finders")["lens"].find(search("lens", replace(it.pictures, classes=[""] * len(it.pictures))))
    assert found.strategies is None and "decides" not in found.rows[0]
    assert 'id="strategies"' not in page(found, it.pictures, [], {})
