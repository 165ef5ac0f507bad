"""A last look at the image for writing in it, by RapidOCR: any, or the phrases that must not be there.

A phrase is found as ``phrases`` finds it in a language model's text: whatever its case, its marks and the lines it is
broken over, spelled out letter by letter, and only as whole words.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from conceptguard.errors import shown
from conceptguard.generation.images import Images
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.receipt import Verdict
from conceptguard.text.folding import BREAK, fold, letter_runs, separates

from ..language.phrases.bank import BROKEN, PLAIN, SPELLED_LETTERS, Bank, Begun
from ..language.phrases.method import checked, phrases_of
from .detectors import Box, require, whole, windows

LONGEST = 1536  # pixels of a side that is read at once
LEGIBLE = 736  # pixels of the shorter side to which a smaller picture is enlarged, as far as the longer one allows
LOWEST = 5  # pixels, below which no letter has a shape
DOUBTFUL = 0.9  # what is less sure may stand on its head
_MARGIN = 0.1  # of a line's height, around its box


class TextSettings(Settings):
    """threshold: how sure the reader must be of a line
    letters: how many letters and digits a line needs to count where no phrases are given: of one or two it sees many
    file: a text file of phrases, one a line, beside the policy, as for ``phrases``
    """

    threshold: float = Field(default=0.5, gt=0, le=1)
    letters: int = Field(default=3, ge=1)
    file: str = ""


class Line(NamedTuple):
    """A line of writing, how sure the reader is of it, and where it is."""

    text: str
    score: float
    box: Box


class Text(Method):
    """Pictures: looks at each finished picture for writing, or for phrases that must not be written.

    Flags images with any writing; given a concept with prompts, a file, or an artifact of ``phrases``, those with one
    of these phrases. One verdict an image, with a box for every line that counts. What was read stands in the receipt's
    notes. Raises PolicyError where the package is missing.
    """

    name = "text"
    needs = "nothing"
    Settings = TextSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        require(self.name, "rapidocr", "rapidocr")
        given = self.guard.concept or self.guard.artifact or self.settings.file
        self.bank = checked(Bank(phrases_of(self)), f"guard '{self.guard.label}'") if given else None

    @hookimpl
    def check_image(self, images: Images) -> None:
        """Score: of the surest line that counts, 0 where there is none."""
        for i, picture in enumerate(images.as_bytes()):
            lines, detector = read(picture)
            sure = [line for line in lines if line.score >= self.settings.threshold]
            if sure:
                self.act.notes.append(f"image {i} reads {shown(' / '.join(line.text for line in sure))!r}")
            label, counting = self._counting(sure)
            score = max((line.score for line in counting), default=0.0)
            boxes = list(dict.fromkeys(line.box for line in counting))
            images.verdicts.append(Verdict(i, self.guard.label, label, score, bool(counting), boxes, detector))

    def _counting(self, lines: Sequence[Line]) -> tuple[str, list[Line]]:
        """What is called by its name, and the lines it stands in."""
        if self.bank is None:
            found = [line for line in lines if sum(map(str.isalnum, line.text)) >= self.settings.letters]
            return ("text" if found else "nothing"), found
        stands = list(occurrences(self.bank, [line.text for line in lines]))
        numbers = sorted({number for _, own in stands for number in own})
        return (stands[0][0] if stands else "nothing"), [lines[number] for number in numbers]


def occurrences(bank: Bank, lines: Sequence[str]) -> Iterator[tuple[str, set[int]]]:
    """Every phrase that stands in a text, as it is given, and the numbers of the lines it is written in."""
    gap, begun = BROKEN, tuple[Begun, ...]()
    whose: list[int] = []  # the line of every letter
    for number, line in enumerate(lines):
        for run in (BREAK, *letter_runs(fold(line))):
            gap, begun = bank.read(["", ""] if run == BREAK else [run], gap, begun)
            if separates(run) and run not in bank.signs:
                continue
            whose += [number] * len(run)
            for place, ways in begun:
                said = len(place.letters)
                if place.whole and (ways & PLAIN or said >= SPELLED_LETTERS):
                    yield bank.written(place.letters), set(whose[-said:])


def read(picture: np.ndarray) -> tuple[list[Line], str]:
    """The writing in one picture, uint8 [height, width, 3], from the top, and what read it."""
    reader, turn, detector = _reader()
    height, width = picture.shape[:2]
    found: list[Line] = []
    if min(height, width) < LOWEST:
        return found, detector
    for left, top, right, bottom in windows(height, width, LONGEST):
        part, scale = _enlarged(picture[top:bottom, left:right])
        with turn:  # it keeps what it is doing in itself
            seen = _seen(reader, part, upright=True)
            if any(score < DOUBTFUL for _, score in seen.values()):
                other = _seen(reader, part, upright=False)
                seen = {at: max(seen.get(at, ("", 0.0)), other.get(at, ("", 0.0)), key=itemgetter(1))
                        for at in {**seen, **other}}  # fmt: skip
        for corners, (text, score) in seen.items():
            x0, y0, x1, y1 = (corner / scale for corner in corners)
            more = _MARGIN * (y1 - y0) + 1
            box = (
                max(0, int(left + x0 - more)), max(0, int(top + y0 - more)),
                min(width, int(left + x1 + more) + 1), min(height, int(top + y1 + more) + 1),
            )  # fmt: skip
            found.append(Line(text, score, box))
    return found, detector


def _seen(reader: Any, picture: np.ndarray, upright: bool) -> dict[tuple[float, ...], tuple[str, float]]:
    """What stands at left, top, right, bottom, and how sure the reader is. It can tell lines that stand on their head,
    of which it takes upright ones for some."""
    seen = reader(picture, use_cls=not upright)
    every = zip(*(() if one is None else one for one in (seen.boxes, seen.txts, seen.scores)))
    return {(*np.min(corners, 0).tolist(), *np.max(corners, 0).tolist()): (text, float(score))
            for corners, text, score in every}  # fmt: skip


def _enlarged(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture as it is read, blue first, and how many times larger it is now."""
    short, long = sorted(picture.shape[:2])
    scale = max(1.0, min(LEGIBLE / short, LONGEST / long))
    if scale > 1:
        height, width = (max(1, round(scale * side)) for side in picture.shape[:2])
        picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(picture[:, :, ::-1]), scale


@cache
def _reader() -> tuple[Any, threading.Lock, str]:
    """Loaded at the first image of a process. Its files are named: by itself it would fetch those it does not find."""
    from rapidocr import RapidOCR

    files = {part: whole("rapidocr", f"models/*_{part.lower()}_*.onnx") for part in ("Det", "Rec", "Cls")}
    given: dict[str, Any] = {f"{part}.model_path": str(path) for part, (path, _) in files.items()}
    # It is given pictures of the size that it is to read: by itself it would make a strip of them enormous.
    sizes = {"Global.max_side_len": 2 * LONGEST, "Det.limit_type": "max", "Det.limit_side_len": 2 * LONGEST}
    reader = RapidOCR(params={**given, **sizes, "Global.log_level": "critical"})
    return reader, threading.Lock(), ", ".join(detector for _, detector in (files["Det"], files["Rec"]))
