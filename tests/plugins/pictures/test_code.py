"""QR codes in pictures, in whatever way the picture comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import inside, look, on_paper, qr, tensor, written
from PIL import Image, ImageFilter

from conceptguard.errors import PolicyError, Refused
from conceptguard.files.pictures import open_picture

PLACE = (90, 40)
CODE = {"method": "code"}


@pytest.fixture(scope="module")
def poster() -> Image.Image:
    """A code of 87 px with its quiet zone, on a picture of 256."""
    return on_paper(qr(), PLACE)


def test_a_code_is_found_where_it_is_and_blurred_there_alone(poster: Image.Image) -> None:
    pictures = torch.cat([tensor(written([(20, 100, "||| |  ||")])), tensor(poster)])
    after, receipt = look(CODE, pictures, "blur")
    nothing, code = receipt.verdicts
    assert not nothing.flagged and nothing.score == 0 and torch.equal(after[0], pictures[0])
    assert code.flagged and code.label == "QRCode" and code.score == 1 and code.detector.startswith("zxing-cpp ")
    ((left, top, right, bottom),) = code.boxes
    assert 95 < left < 110 and 45 < top < 60 and 160 < right < 175 and 110 < bottom < 125
    mask = inside(code.boxes[0], after[1])
    assert torch.equal(after[1][~mask], pictures[1][~mask])
    assert not look(CODE, after)[1].verdicts[1].flagged, "what is blurred is read no more"
    assert "hello" not in str(receipt.to_dict()), "what a code says is not told"


def test_a_code_of_few_pixels_is_read() -> None:
    """At a pixel and a fifth a module it is read where it is enlarged, and not as it is."""
    small = qr(scale=4)
    small = small.resize((round(small.width * 0.3),) * 2, Image.Resampling.BILINEAR)
    (verdict,) = look(CODE, tensor(on_paper(small, (10, 10), (128, 128))))[1].verdicts
    ((left, top, right, bottom),) = verdict.boxes
    assert verdict.flagged and verdict.label == "QRCode"
    assert 10 <= left < 16 and 10 <= top < 16 and 36 < right <= 46 and 36 < bottom <= 46


def test_what_only_looks_like_one_is_found_on_request(poster: Image.Image) -> None:
    unsharp = tensor(on_paper(qr("a longer text", 4), PLACE).filter(ImageFilter.GaussianBlur(2)))
    assert not look(CODE, unsharp)[1].verdicts[0].flagged
    (verdict,) = look({**CODE, "unreadable": True}, unsharp)[1].verdicts
    assert verdict.flagged and verdict.score == 0.5 and verdict.boxes


def test_formats_are_chosen(poster: Image.Image) -> None:
    assert not look({**CODE, "formats": ["EAN13", "DataMatrix"]}, tensor(poster))[1].verdicts[0].flagged
    with pytest.raises(PolicyError, match="there are QRCode, MicroQRCode"):
        look({**CODE, "formats": ["QR"]}, tensor(poster))


def _turned(picture: Image.Image, path: Path) -> None:
    """Stored on its side, with a note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(path.with_suffix(".jpg"), exif=exif, quality=95)


def _deep(picture: Image.Image, path: Path) -> None:
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)


def _transparent(picture: Image.Image, path: Path) -> None:
    """Dark modules on nothing."""
    dark = picture.convert("L").point(lambda value: 255 if value < 60 else 0)
    seen = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    seen.putalpha(dark)
    seen.save(path)


@pytest.mark.parametrize("store", [_turned, _deep, _transparent], ids=["turned", "sixteen bits", "transparent"])
def test_files_are_looked_at_as_they_are_seen(
    poster: Image.Image, store: Callable[[Image.Image, Path], None], tmp_path: Path
) -> None:
    store(poster, tmp_path / "poster.png")
    (path,) = tmp_path.iterdir()
    pixels = tensor(open_picture(path))
    with pytest.raises(Refused, match="shows QRCode"):
        look(CODE, pixels, "reject")
    ((left, top, _, _),) = look(CODE, pixels)[1].verdicts[0].boxes
    assert abs(left - 101) < 6 and abs(top - 51) < 6


def test_long_and_tiny_pictures(poster: Image.Image) -> None:
    wide = tensor(on_paper(qr(), (15_900, 0), (16_000, 90)))
    (verdict,) = look(CODE, wide)[1].verdicts
    assert verdict.flagged and verdict.boxes[0][0] > 15_900
    assert not look(CODE, torch.ones(2, 3, 1, 1))[1].verdicts[1].flagged
