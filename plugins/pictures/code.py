"""A last look at the image for QR codes and barcodes that a telephone would read, by ZXing."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, field_validator

from conceptguard.generation.images import Images
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.receipt import Verdict

from .detectors import Box, require

# With a checksum of their own. Without one, stripes of all kinds are read as something.
CHECKED = (
    "QRCode", "MicroQRCode", "RMQRCode", "DataMatrix", "Aztec", "PDF417", "MaxiCode", "EAN13", "EAN8", "UPCA", "UPCE",
    "Code128",
)  # fmt: skip
UNCHECKED = ("Code39", "Code93", "Codabar", "ITF", "DataBar", "DataBarExp", "DataBarLtd")
SMALL = 256  # pixels of the longer side, below which a picture is read once more, three times as large
CANDIDATE = 0.5  # the score of what looks like a code and cannot be read


class CodeSettings(Settings):
    """formats: which symbols count, by ZXing's names; by default all that have a checksum
    unreadable: whether what looks like one and fails its checksum is flagged as well
    """

    formats: list[str] = Field(default=list(CHECKED), min_length=1)
    unreadable: bool = False

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: list[str]) -> list[str]:
        if unknown := [name for name in formats if name not in CHECKED + UNCHECKED]:
            raise ValueError(f"unknown format {unknown}: there are {', '.join(CHECKED + UNCHECKED)}")
        return formats


class Code(Method):
    """Pictures: looks at each finished picture for QR codes and barcodes.

    Flags images with a symbol that can be read. One verdict an image, with a box for each. What it says stands in no
    receipt. Raises PolicyError where the package is missing.
    """

    name = "code"
    needs = "nothing"
    Settings = CodeSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        require(self.name, "zxingcpp", "zxing-cpp")

    @hookimpl
    def check_image(self, images: Images) -> None:
        """Score 1 for a symbol that can be read, a half for what only looks like one, 0 where nothing is seen."""
        detector = f"zxing-cpp {_version()}"
        for i, picture in enumerate(images.as_bytes()):
            found = self._found(picture)
            score = max((score for _, score, _ in found), default=0.0)
            label = next((name for name, one, _ in found if one == score), "nothing")
            boxes = [box for _, _, box in found]
            images.verdicts.append(Verdict(i, self.guard.label, label, score, bool(found), boxes, detector))

    def _found(self, picture: np.ndarray) -> list[tuple[str, float, Box]]:
        """The symbols of one picture [height, width, 3]: format, score, box."""
        import zxingcpp

        # Grey, as it computes with: the package takes a picture of three colours for blue first.
        grey = np.ascontiguousarray((picture @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8))
        formats = zxingcpp.BarcodeFormats([getattr(zxingcpp.BarcodeFormat, name) for name in self.settings.formats])
        for scale in (1, 3) if max(grey.shape) < SMALL else (1,):
            larger = grey.repeat(scale, 0).repeat(scale, 1)
            codes = zxingcpp.read_barcodes(larger, formats=formats, return_errors=self.settings.unreadable)
            if codes:
                break
        return [(c.format.name, 1.0 if c.valid else CANDIDATE, _box(c.position, scale, grey.shape)) for c in codes]


def _box(position: Any, scale: int, shape: tuple[int, ...]) -> Box:
    """Around the four corners of a symbol, and a little more: a third of its edge would still be read."""
    corners = position.top_left, position.top_right, position.bottom_left, position.bottom_right
    xs, ys = [corner.x / scale for corner in corners], [corner.y / scale for corner in corners]
    more = 0.05 * max(max(xs) - min(xs), max(ys) - min(ys)) + 1
    left, top = max(0, int(min(xs) - more)), max(0, int(min(ys) - more))
    return left, top, min(shape[1], int(max(xs) + more) + 1), min(shape[0], int(max(ys) + more) + 1)


def _version() -> str:
    from importlib.metadata import version

    return version("zxing-cpp")
