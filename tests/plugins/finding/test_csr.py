"""Prototypes of patches: they are where things are, and what a person says changes the decision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptguard_plugins.finding.csr import ELSEWHERE, learnt, pointed
from small_planted import planted, search

from conceptguard.errors import PolicyError
from conceptguard.finder import PictureSet
from conceptguard.finding.crops import part
from conceptguard.finding.judged import area
from conceptguard.finding.planted import GUARDED
from conceptguard.plugins import offers


def test_prototypes_are_of_the_patches_that_have_it() -> None:
    """One direction is in one patch of some pictures, another in another patch of others."""
    random = torch.Generator().manual_seed(0)
    patches = 0.2 * torch.randn(40, 6, 16, generator=random)
    labels = torch.rand(40, 2, generator=random) > 0.5
    for k in range(2):
        patches[labels[:, k], 1 + 3 * k, k] += 2
    patches = torch.nn.functional.normalize(patches, dim=2)
    maps = learnt(patches, labels.float(), 2, 0).maps(patches).amax(3)
    for k in range(2):
        there = maps[labels[:, k], k].argmax(1) == 1 + 3 * k
        assert float(there.float().mean()) > 0.9, "the patch of its own, of six"


def test_pointing() -> None:
    maps = torch.rand(2, 3, 4, 5) + 0.1
    yes, no = torch.tensor([True, False, False, False]), torch.tensor([False, True, False, False])
    found = pointed(maps, {(0, 1): [(True, yes), (False, no)]})
    assert torch.equal(found[0, 1, 0], maps[0, 1, 0]) and torch.equal(found[0, 1, 2], ELSEWHERE * maps[0, 1, 2])
    assert float(found[0, 1, 1].max()) == float(maps[:, 1].min()), "where it is not it is as little as anywhere"
    rest = torch.ones(2, 3, dtype=torch.bool)
    rest[0, 1] = False
    assert torch.equal(found[rest], maps[rest])
    assert torch.equal(pointed(maps, {(0, 1): [(False, no)]})[0, 1, 2], maps[0, 1, 2]), "nothing said of elsewhere"


def find(pictures: Any = None, **settings: Any) -> Any:
    return offers("finders")["csr"].find(search("csr", pictures, concepts=12, **settings))


def confounded() -> PictureSet:
    """Of every two pictures the first, which is learnt from, has the mark just where it is guarded, the second not."""
    it = planted()
    agree = torch.tensor([one == GUARDED for one in it.pictures.classes]) == it.truths["mark"]
    those, others = (some.nonzero()[:, 0].tolist() for some in (agree, ~agree))
    half = sorted(those, key=lambda i: (it.pictures.classes[i], i))
    picked = [half[round(i * (len(half) - 1) / (len(others) - 1))] for i in range(len(others))]
    return part(it.pictures, [i for pair in zip(picked, others) for i in pair])


def test_what_is_rejected_has_no_part() -> None:
    """The mark is found; without it the decision is no worse on pictures that speak against it, and it is another one;
    with every concept rejected nothing is left to decide by."""
    given = confounded()
    bare = find(given)
    marked = torch.tensor([planted().truths["mark"][int(name)] for name in given.names])
    mark = max(bare.concepts, key=lambda one: area(one.scores, marked))
    told = find(given, rejected=[mark.name]).figures
    assert told["accuracy"] == bare.figures["accuracy"] == bare.figures["after"]
    assert told["after"] >= told["accuracy"] and "random" in told
    everything = find(given, rejected=[one.name for one in bare.concepts]).figures
    assert everything["after"] in {round(given.classes[1::2].count(one) / len(given.classes[1::2]), 3)
                                   for one in set(given.classes)}  # fmt: skip


def test_what_is_asked_wrongly() -> None:
    with pytest.raises(PolicyError, match="rejected 'nonsense': nothing of that name was found"):
        find(rejected=["nonsense"])
    with pytest.raises(PolicyError, match=r"boxes 'x': write PICTURE: CONCEPT: yes \(or no\)"):
        find(boxes=["x"])
    unsorted = PictureSet(planted().pictures.pixels, planted().pictures.names, [""] * 48)
    with pytest.raises(PolicyError, match="give pictures in folders of their classes"):
        find(unsorted)
