"""A mark that goes with a class is seen to be leant on as far as it is, and a rule takes it away."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from small_planted import planted, search

from conceptguard.errors import PolicyError
from conceptguard.finder import PictureSet
from conceptguard.finding.judged import area
from conceptguard.finding.planted import INK, MARK, mark_shape
from conceptguard.plugins import offers

OWN = ("dog", "apple", "beer", "sunflower")  # what makes a picture of class a


@cache
def stamped(inside: float, outside: float) -> tuple[PictureSet, torch.Tensor]:
    """The planted pictures, with the mark on so many of class a and of the others, and on which it is."""
    pixels = planted().without("mark").pixels.clone()
    label = torch.stack([planted().truths[name] for name in OWN]).any(0)
    at = torch.rand(len(label), generator=torch.Generator().manual_seed(0))
    marked = at < torch.where(label, torch.tensor(inside), torch.tensor(outside))
    ink = (torch.tensor(INK) * 255).byte()
    for i in marked.nonzero()[:, 0].tolist():
        pixels[i, :, -MARK:, :MARK][:, mark_shape()] = ink[:, None]
    return PictureSet(pixels, planted().pictures.names, ["a" if one else "b" for one in label.tolist()]), marked


def find(inside: float, outside: float, *rules: str) -> tuple[Any, dict[str, Any]]:
    """What was found, and the row of the concept that is the mark."""
    pictures, marked = stamped(inside, outside)
    result = offers("finders")["confounders"].find(search("confounders", pictures, rules=list(rules)))
    areas = [area(one.scores, marked) for one in result.concepts]
    assert max(areas) >= 0.9, "the mark is among what was found"
    return result, result.rows[max(range(len(areas)), key=areas.__getitem__)]


def test_a_mark_that_goes_with_a_class_is_leant_on_and_one_that_does_not_is_not() -> None:
    with_it, without = find(0.85, 0.15)[1], find(0.5, 0.5)[1]
    assert with_it["about"] == "a" and with_it["in_class"] > with_it["elsewhere"] + 0.4
    assert with_it["lean"] > without["lean"] and with_it["against"] < without["against"]


def test_a_rule_takes_it_away() -> None:
    _, row = find(0.85, 0.15)
    result, _ = find(0.85, 0.15, f"a: {row['concept']}")
    figures = result.figures
    assert figures["against_before"] == row["against"]
    assert figures["against_after"] > figures["against_before"] and figures["against_after"] > figures["against_random"]
    assert figures["accuracy_after"] >= figures["accuracy_before"] - 0.05 and "under the rules" in result.told


def test_rules_are_about_what_was_found() -> None:
    with pytest.raises(
        PolicyError, match=r"rule 'a: nonsense': no class leans on such a concept; write CLASS: CONCEPT"
    ):
        find(0.85, 0.15, "a: nonsense")
    with pytest.raises(PolicyError, match="give pictures in folders of their classes"):
        pictures = PictureSet(planted().pictures.pixels, planted().pictures.names, [""] * 48)
        offers("finders")["confounders"].find(search("confounders", pictures))
