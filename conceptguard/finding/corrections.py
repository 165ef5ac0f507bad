"""What a person says of what was found: that is no concept, it is called otherwise, it is here and not there, and no
class may be told by it.

A page writes it, as a file or to ``conceptguard find --correct``; ``--corrections FILE`` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from ..errors import PolicyError, meant
from ..files.yaml import read_yaml

if TYPE_CHECKING:
    from ..finder import FoundConcept, PictureSet

WHOLE = 0.5  # a box that takes more of a picture and is not the concept says that the picture does not show it
LEAST_SIDE = 0.02  # of a box, as a share of the picture's: less is a click


class Box(BaseModel):
    """Where a concept is in a picture, or is not. box: left, top, right and bottom as shares of a side"""

    model_config = ConfigDict(extra="forbid")
    concept: str
    picture: str
    here: bool = True
    box: tuple[float, float, float, float]

    @field_validator("box")
    @classmethod
    def _has_sides(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        left, top, right, bottom = box
        if not (0 <= left <= right - LEAST_SIDE and right <= 1 and 0 <= top <= bottom - LEAST_SIDE and bottom <= 1):
            raise ValueError("write LEFT, TOP, RIGHT, BOTTOM, in shares of a side")
        return box


class Corrections(BaseModel):
    """strike: concepts that are none; rename: what others are called, by what they were called; boxes: where they are,
    and are not; rules: CLASS: CONCEPT for each that must not tell the class. All by the names that a finder gave."""

    model_config = ConfigDict(extra="forbid")
    strike: list[str] = []
    rename: dict[str, str] = {}
    boxes: list[Box] = []
    rules: list[str] = Field(default=[])


def read_corrections(file: Path) -> Corrections:
    """As a page saved them. Raises PolicyError, which names the field."""
    return corrections_of(read_yaml(file)[0] or {}, str(file))


def corrections_of(said: Any, where: str) -> Corrections:
    """The same of fields. Raises PolicyError."""
    try:
        return Corrections.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def checked(said: Corrections, found: Sequence[FoundConcept], pictures: PictureSet) -> None:
    """Raises PolicyError for what is said of a concept or a picture that is not there."""
    names = [one.name for one in found]
    rules = [rule.partition(":")[2].strip() for rule in said.rules]
    for name in (*said.strike, *said.rename, *(one.concept for one in said.boxes), *rules):
        if name not in names:
            hint = meant(name, names, f"found were {', '.join(names)}")
            raise PolicyError(f"a correction speaks of '{name}', and no concept of that name was found: {hint}")
    for one in said.boxes:
        if one.picture not in pictures.names:
            raise PolicyError(f"a correction speaks of picture '{one.picture}', which is none of those looked through")


def corrected(found: Sequence[FoundConcept], pictures: PictureSet, said: Corrections) -> list[FoundConcept]:
    """What was found as a person corrects it: a picture with a box shows the concept, whatever was measured; one in
    which most is said not to be it does not."""
    kept = []
    for one in found:
        if one.name in said.strike:
            continue
        scores = one.scores.clone()
        for box in said.boxes:
            if box.concept == one.name and (box.here or _area(box) > WHOLE):
                scores[pictures.names.index(box.picture)] = one.scores.max() if box.here else 0.0
        name = said.rename.get(one.name, one.name)
        evoked = one.evoked if name == one.name else (name,)
        kept.append(replace(one, name=name, evoked=evoked, scores=scores))
    return kept


def cut_out(pictures: PictureSet, said: Corrections, concept: str, here: bool) -> Tensor:
    """What is in the boxes of a concept, by the name that a finder gave it, as pictures of their own, uint8
    [boxes, 3, side, side]."""
    side = pictures.pixels.shape[-1]
    parts = [torch.empty(0, 3, side, side)]
    for one in said.boxes:
        if one.concept == concept and one.here is here:
            left, top, right, bottom = (round(side * edge) for edge in one.box)
            part = pictures.pixels[pictures.names.index(one.picture), None, :, top:bottom, left:right].float()
            parts.append(torch.nn.functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
    return torch.cat(parts).round().byte()


def settings_with(settings: Any, said: Corrections) -> Any:
    """A finder's settings with what of the corrections it can decide by itself: ``rules``, ``rejected`` and ``boxes``,
    as far as it has them; the settings themselves where that is nothing."""
    lines = {
        "rules": said.rules,
        "rejected": said.strike,
        "boxes": [
            f"{one.picture}: {one.concept}: {'yes' if one.here else 'no'}: {' '.join(map(str, one.box))}"
            for one in said.boxes
        ],
    }
    known = {
        name: [*getattr(settings, name), *some] for name, some in lines.items() if some and hasattr(settings, name)
    }
    return settings.model_copy(update=known) if known else settings


def _area(one: Box) -> float:
    left, top, right, bottom = one.box
    return (right - left) * (bottom - top)
