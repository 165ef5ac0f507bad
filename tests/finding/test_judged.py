"""The bench that judges finders: what is planted is there, what is taken away is gone, and each column can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_planted import encoder, found, oracle, planted, search

from conceptguard.finder import Found
from conceptguard.finding import judged
from conceptguard.finding.planted import FIRST, GUARDED, KEPT, OBJECTS, PLANTED, SIDE, STYLES
from conceptguard.plugins import offers


def test_planted_things_are_where_they_are_said_to_be() -> None:
    it = planted()
    assert set(it.truths) == {*PLANTED} and len(it.pictures) == 48
    assert [one == GUARDED for one in it.pictures.classes] == it.truths[FIRST].tolist()
    assert set(it.pictures.classes) == {GUARDED, KEPT}
    for name, there in it.truths.items():
        assert torch.equal(it.masks[name].flatten(1).any(1), there), name
        without = it.without(name).pixels.short()
        assert torch.equal((without != it.pictures.pixels.short()).flatten(1).any(1), there), f"{name}: and no others"
        changed = ((without - it.pictures.pixels.short()).abs() > 40).any(1)
        if name not in (*STYLES, "white", "tint"):
            outside = changed & ~it.masks[name]
            # A soft edge is thinner than what counts as the thing.
            assert float(outside.float().sum() / it.masks[name].float().sum()) < 0.35, name


def test_the_judge_sees_what_was_planted() -> None:
    """An oracle has every column at its top, and one that says anything of any picture has none."""
    it = planted()
    effects = torch.tensor([float(i) for i in range(len(it.truths))])
    known = [oracle(it.truths[n], it.masks[n], n, float(effects[i])) for i, n in enumerate(it.truths)]
    row = judged.figures(Found([], concepts=known), it, effects)
    assert row["recall"] == row["precision"] == row["named"] == 1.0 and row["rank"] > 0.99 and row["iou"] > 0.5
    assert row["there"] == 1.0 and row["where"] > 0.9 and row["how_much"] > 0.99
    assert row["whole"] == 1.0
    shown = {style: it.truths[style] for style in STYLES}
    alone = [(n, it.truths[n] & shown[s]) for n in OBJECTS for s in STYLES[: 1 + (n != FIRST)]]
    halves = [oracle(there, it.masks[n], n, 1.0) for n, there in alone if there.any()]
    row = judged.figures(Found([], concepts=halves), it, effects)
    assert row["recall"] == round((len(OBJECTS) - 1) / len(it.truths), 3), "in each style, and not in one of them"
    assert row["whole"] < row["recall"] and row["precision"] == 1.0
    turned = judged.figures(Found([], concepts=known), it, effects.flip(0))
    assert turned["rank"] < -0.9, "importance in another order than what taking away does"
    blind = [oracle(it.truths[n], it.masks[n].flip(1), n, 1.0) for n in it.truths if n not in ("white", "tint")]
    assert judged.figures(Found([], concepts=blind), it, effects)["where"] < 0.5, "there, and looking elsewhere"
    mixed = torch.Generator().manual_seed(1)
    guessed = [oracle(torch.rand(48, generator=mixed), it.masks["mark"].flip(2), "cat", 1.0) for _ in range(20)]
    row = judged.figures(Found([], concepts=guessed), it, effects)
    assert row["recall"] <= 0.1 and row["precision"] <= 0.1 and row["named"] == 0.0 and row["iou"] < 0.2
    assert judged.figures(Found([]), it, effects)["recall"] == 0.0


def test_drawings_together() -> None:
    """Means, beside the worst drawing's."""
    rows = [{"finder": "craft", "recall": r, "precision": 0.9, "shown": 32, "seconds": 1.0} for r in (0.6, 1.0)]
    row = judged.together(rows)
    assert (row["finder"], row["recall"], row["recall_least"], row["precision_least"]) == ("craft", 0.8, 0.6, 0.9)


def test_areas_and_ranks() -> None:
    truth = torch.tensor([True, True, False, False])
    assert judged.area(torch.tensor([3.0, 2.0, 1.0, 0.0]), truth) == 1.0
    assert judged.area(torch.tensor([0.0, 0.0, 0.0, 0.0]), truth) == 0.5
    assert judged.area(torch.tensor([0.0, 1.0, 2.0, 3.0]), truth) == 0.0
    assert judged.rank(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 3.0, 4.0])) > 0.999
    assert judged.rank(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 3.0, 4.0])) == 0.0


def test_what_compares_is_to_find_what_differs_alone() -> None:
    names = judged.differing(planted())
    assert FIRST in names and "mark" in names and "mono" not in names and "tint" not in names
    assert getattr(offers("finders")["blindspots"], "compares", False)
    it = planted()
    about = {"mark": GUARDED, "mono": GUARDED, "apple": KEPT}
    said = [replace(oracle(it.truths[n], it.masks[n], n, 1.0), about=one) for n, one in about.items()]
    assert judged.rightly(Found([], concepts=said), it).tolist() == [True, False, True], "styles do not differ"
    turned = [replace(one, about=KEPT if one.about == GUARDED else GUARDED) for one in said]
    assert not judged.rightly(Found([], concepts=turned), it).any(), "the other class has more of it"


@pytest.mark.slow
def test_taking_away_what_is_guarded_moves_the_decision_most() -> None:
    """Of everything planted, the object that the classes are about, and the mark that goes with it."""
    bench = judged.Bench(planted(), encoder(), [])
    s = search("craft").settings
    effects = dict(zip(planted().truths, bench.effects(s.crop, s.stride).tolist()))
    assert max(effects, key=lambda name: abs(effects[name])) in (FIRST, "mark")
    assert effects[FIRST] > 0


def test_finders_find_more_than_those_that_know_nothing() -> None:
    it, effects = planted(), torch.ones(len(planted().truths))
    rows = {name: judged.figures(found(name), it, effects) for name in ("craft", "random_directions")}
    assert rows["craft"]["recall"] >= rows["random_directions"]["recall"] + 0.3
    assert rows["craft"]["precision"] >= rows["random_directions"]["precision"] + 0.2


def test_maps_are_of_the_whole_picture() -> None:
    for name in ("craft", "dn_cbm", "lens"):
        one = found(name, concepts=4).concepts[0]
        assert (
            one.maps.shape == (48, 16, 16) and one.scores.shape == (48,) and planted().pictures.pixels.shape[-1] == SIDE
        )
