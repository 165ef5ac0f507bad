"""One energy over pictures, concepts and classes: what is said of one concept moves the others, and the classes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from conceptguard_plugins.finding.ecbm import Energies, fit, infer
from small_planted import encoder, planted, search

from conceptguard.errors import PolicyError
from conceptguard.finder import PictureSet
from conceptguard.finding.crops import read
from conceptguard.finding.planted import FIRST, GUARDED, PLANTED
from conceptguard.plugins import offers

LEARN = torch.arange(48) % 2 == 0
LABELS = [name for name in PLANTED if name not in ("noto", "white")]  # of which mono and tint are the other sides


@cache
def learnt() -> tuple[Energies, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Taught on every other planted picture; rows, labels and classes of all."""
    it = planted()
    rows = read(it.pictures, encoder(), 0.375, 0.34).rows.mean(1)
    rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    labels = torch.stack([it.truths[name] for name in LABELS], 1).float()
    wanted = torch.tensor([one != GUARDED for one in it.pictures.classes]).long()
    return fit(rows[LEARN], labels[LEARN], wanted[LEARN], 2, 0), rows, labels, wanted


def test_it_tells_concepts_of_other_pictures() -> None:
    model, rows, labels, _ = learnt()
    there, which = infer(model, rows[~LEARN])
    assert torch.allclose(which.sum(1), torch.ones(int((~LEARN).sum())), atol=1e-5)
    usual = torch.maximum(labels[LEARN].mean(0), 1 - labels[LEARN].mean(0)).mean()
    assert float(((there > 0.5) == (labels[~LEARN] > 0.5)).float().mean()) > float(usual)


def test_a_correction_moves_others_and_through_a_threshold_none() -> None:
    model, rows, _, _ = learnt()
    first = LABELS.index(FIRST)
    others = [i for i in range(len(LABELS)) if i != first]
    for weights, least in (((0.0, 0.0, 3.0), 0.05), ((1.0, 1.0, 1.0), 0.001)):
        moved = {}
        for hard in (False, True):
            before, after = (infer(model, rows[~LEARN], said, weights, hard)[0] for said in (None, {first: 0.0}))
            moved[hard] = float((after - before)[:, others].abs().mean(0).max())
        assert moved[False] > least and moved[True] < 1e-6, moved


def test_what_is_said_gets_the_class_right() -> None:
    """Pictures are of the guarded class where the first object is: whoever says so leaves fewer classes wrong."""
    model, rows, labels, wanted = learnt()
    first = LABELS.index(FIRST)
    bare = infer(model, rows[~LEARN])[1].argmax(1) == wanted[~LEARN]
    told = torch.empty(0, dtype=torch.bool)
    for value in (0.0, 1.0):
        some = ~LEARN & (labels[:, first] == value)
        told = torch.cat([told, infer(model, rows[some], {first: value})[1].argmax(1) == wanted[some]])
    assert float(told.float().mean()) >= float(bare.float().mean()) + 0.1


def find(*said: str, **more: Any) -> Any:
    return offers("finders")["ecbm"].find(search("ecbm", concepts=12, said=list(said), **more))


def test_as_a_finder() -> None:
    name = find().rows[0]["concept"]
    result = find(f"{name}: yes")
    row = next(row for row in result.rows if row["concept"] == name)
    assert abs(row["share"] + row["moved"] - 1) < 0.002, "what is said is so"
    assert result.figures["said_guarded"] != result.figures["share_guarded"]
    with pytest.raises(PolicyError, match=r"said 'nonsense: yes': write CONCEPT: yes or CONCEPT: no, of one of"):
        find("nonsense: yes")
    unsorted = PictureSet(planted().pictures.pixels, planted().pictures.names, [""] * 48)
    with pytest.raises(PolicyError, match="give pictures in folders of their classes"):
        offers("finders")["ecbm"].find(search("ecbm", unsorted))
