"""Pictures as a viewer shows them, whatever is written in the file: values, not modes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from conceptguard.errors import ConceptGuardError
from conceptguard.files.pictures import as_rgb, open_picture

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def two(left: tuple[int, ...] = RED, right: tuple[int, ...] = BLUE, mode: str = "RGB") -> Image.Image:
    """Two pixels beside each other."""
    picture = Image.new(mode, (2, 1))
    picture.putpixel((0, 0), left)
    picture.putpixel((1, 0), right)
    return picture


def saved(picture: Image.Image, folder: Path, kind: str = "png", **options: Any) -> np.ndarray:
    """What is read of a picture that was saved: [height, width, 3]."""
    picture.save(folder / f"x.{kind}", **options)
    found = open_picture(folder / f"x.{kind}")
    assert found.mode == "RGB"
    return np.asarray(found)


# https://www.cipa.jp, Exif 2.3, tag 0x0112: which row of the data is the top, and which column the left side.
TURNED = {
    1: [[RED, BLUE]], 2: [[BLUE, RED]], 3: [[BLUE, RED]], 4: [[RED, BLUE]],
    5: [[RED], [BLUE]], 6: [[RED], [BLUE]], 7: [[BLUE], [RED]], 8: [[BLUE], [RED]],
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
def test_orientation(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = two().resize((32, 16), Image.Resampling.NEAREST)
    found = saved(big, tmp_path, kind, exif=exif, **({"quality": 100} if kind in ("jpg", "webp") else {}))
    want = np.array(TURNED[orientation]).repeat(16, 0).repeat(16, 1)
    inner = np.zeros(want.shape[:2], bool)  # away from the edge, which a JPEG blurs
    inner[4:12, 4:12] = inner[-12:-4, -12:-4] = True
    assert found.shape == want.shape and abs(found.astype(int) - want)[inner].max() < 12


def test_deep_greys(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768, 65407, 65535]], np.uint16)
    for kind in ("png", "tiff"):
        found = saved(Image.fromarray(values), tmp_path, kind)
        assert found[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255] and (found == found[..., :1]).all()
    wide = Image.fromarray(values.astype(np.int32))
    assert np.asarray(as_rgb(wide))[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]
    with pytest.raises(ConceptGuardError, match="more than 16 bits"):
        as_rgb(Image.fromarray(np.array([[70000]], np.int32)))
    with pytest.raises(ConceptGuardError, match="floating-point"):
        saved(Image.fromarray(np.zeros((1, 1), np.float32)), tmp_path, "tiff")


def test_transparency_is_over_white(tmp_path: Path) -> None:
    half = two((255, 0, 0, 128), (0, 0, 255, 0), "RGBA")
    assert saved(half, tmp_path).tolist() == [[[255, 127, 127], [255, 255, 255]]]
    assert saved(half, tmp_path, "webp", lossless=True, exact=True).tolist() == [[[255, 127, 127], [255, 255, 255]]]
    grey = two((0, 255), (0, 51), "LA")
    assert saved(grey, tmp_path).tolist() == [[[0, 0, 0], [204, 204, 204]]]
    # A colour that stands for nothing.
    assert saved(two(), tmp_path, transparency=BLUE).tolist() == [[list(RED), list(WHITE)]]
    assert saved(two((0,), (9,), "L"), tmp_path, transparency=9).tolist() == [[[0, 0, 0], list(WHITE)]]


def png(bits: int, kind: int, row: bytes, width: int, *more: tuple[bytes, bytes]) -> io.BytesIO:
    """A PNG of one row, written by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))


def test_deep_pixels_of_every_kind() -> None:
    def read(*words: Any) -> list[Any]:
        return np.asarray(as_rgb(Image.open(png(*words)))).tolist()[0]

    assert read(16, 0, struct.pack(">HH", 32768, 7), 2, (b"tRNS", struct.pack(">H", 7))) == [[128] * 3, [255] * 3]
    assert read(16, 2, struct.pack(">HHH", 65535, 0, 32896), 1) == [[255, 0, 128]]
    assert read(16, 6, struct.pack(">HHHH", 0, 0, 0, 0), 1) == [[255, 255, 255]]
    assert read(16, 4, struct.pack(">HH", 0, 0), 1) == [[255, 255, 255]]
    assert read(1, 0, b"\x40", 2) == [[0, 0, 0], [255, 255, 255]]
    assert read(4, 0, b"\x0f", 2) == [[0, 0, 0], [255, 255, 255]]


def test_palettes(tmp_path: Path) -> None:
    palette = two().quantize(2)
    assert saved(palette, tmp_path).tolist() == saved(palette, tmp_path, "gif").tolist() == [[list(RED), list(BLUE)]]
    number = palette.getpixel((1, 0))
    assert saved(palette, tmp_path, transparency=number).tolist() == [[list(RED), list(WHITE)]]
    assert saved(palette, tmp_path, "gif", transparency=number).tolist() == [[list(RED), list(WHITE)]]
    # A grade of transparency for each colour.
    grades = bytes(128 if i == number else 255 for i in range(2))
    assert saved(palette, tmp_path, transparency=grades).tolist() == [[list(RED), [127, 127, 255]]]


def test_inks(tmp_path: Path) -> None:
    inks = two((0, 255, 255, 0), (0, 0, 0, 0), "CMYK")
    assert saved(inks, tmp_path, "tiff").tolist() == [[list(RED), list(WHITE)]]
    big = inks.resize((32, 16), Image.Resampling.NEAREST)
    assert abs(saved(big, tmp_path, "jpg", quality=100).astype(int)[8, 4] - RED).max() < 4
    with_nonsense = saved(inks, tmp_path, "tiff", icc_profile=b"no profile")
    assert with_nonsense.tolist() == [[list(RED), list(WHITE)]]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert saved(inks, tmp_path, "tiff", icc_profile=srgb).tolist() == [[list(RED), list(WHITE)]], "of other colours"


def test_the_first_of_several(tmp_path: Path) -> None:
    found = saved(two(), tmp_path, "gif", save_all=True, append_images=[two(BLUE, RED)], duration=100)
    assert found.tolist() == [[list(RED), list(BLUE)]]


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_no_picture(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ConceptGuardError, match=r"x\.png is no picture that can be read .*: give a PNG"):
        open_picture(tmp_path / "x.png")
    with pytest.raises(ConceptGuardError, match="no picture"):
        open_picture(tmp_path / "missing.png")


def test_cut_short_and_far_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConceptGuardError, match="no picture that can be read"):
        open_picture(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ConceptGuardError, match="no picture that can be read"):
        open_picture(tmp_path / "x.png")
