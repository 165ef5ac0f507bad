"""What was found in a picture, and where, in the words that its next attempt is drawn away from.

Geom-Erasing ("Implicit Concept Removal of Diffusion Models") erases what a model cannot see in its own pictures, as
watermarks, by naming in the negative prompt what a detector found and the places where it was. There tokens are learnt
for the places; here they are words, which a model knows or does not.
"""

from __future__ import annotations

import re

from ..generation.images import Images

_PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the center", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def away_from(images: Images) -> dict[int, str]:
    """For every flagged image what guards saw in it, once each, and in which ninths of it."""
    height, width = images.pixels.shape[-2:]
    found: dict[int, list[str]] = {}
    for verdict in images.verdicts:
        if verdict.flagged:
            name = as_words(verdict.label)
            told = [f"{name} {_place(box, height, width)}" for box in verdict.boxes]
            found.setdefault(verdict.image, []).extend([name, *told])
    return {image: ", ".join(dict.fromkeys(words)) for image, words in found.items()}


def as_words(label: str) -> str:
    """A detector's label as one would write it: "QRCode" is a "QR code", "FACE_MALE" a "face male"."""
    if label.isupper() or "_" in label:
        return label.replace("_", " ").lower()
    return re.sub(r"(?<=[A-Za-z0-9])([A-Z][a-z])", lambda found: f" {found[0].lower()}", label)


def _place(box: tuple[int, int, int, int], height: int, width: int) -> str:
    """The ninth of a picture that the middle of a box is in."""
    left, top, right, bottom = box
    row, column = 3 * (top + bottom) / 2 / height, 3 * (left + right) / 2 / width
    return _PLACES[min(2, int(row))][min(2, int(column))]
