"""Picture files as they look: turned as they are to be seen, over white where they are transparent, all their greys."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptguard.errors import ConceptGuardError

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255)


SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # of what is looked for in folders of pictures


def open_picture(path: Path | str) -> Image:
    """The (first) picture of a file as RGB, 8 bits. Raises ConceptGuardError for what is no readable picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return as_rgb(picture)
    except ConceptGuardError as cause:
        raise ConceptGuardError(f"{path}: {cause}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        why = " ".join(str(cause).split())[:160]
        raise ConceptGuardError(f"{path} is no picture that can be read ({why}): give a PNG or JPEG") from None


def as_rgb(picture: Any) -> Image:
    """A PIL picture of any mode as RGB, 8 bits, as a viewer shows it. Raises ConceptGuardError for floating point."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ConceptGuardError("a picture of floating-point values, whose white nobody can tell: save it with 8 bits")
    if picture.mode.startswith("I"):
        return _of_deep_greys(picture)
    if picture.mode == "CMYK":
        return _of_inks(picture)
    if picture.mode == "LAB":
        raise ConceptGuardError("a picture in LAB: save it as RGB")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", seen.size, (*WHITE, 255)), seen)
    rgb: Image.Image = picture.convert("RGB")
    return rgb


def _of_deep_greys(picture: Any) -> Image:
    """16 bits are brought to 8; PIL itself cuts off whatever is above 255."""
    import numpy as np
    from PIL import Image

    greys = np.asarray(picture).astype(np.int64)
    if greys.size and (greys.min() < 0 or greys.max() > 65535):
        raise ConceptGuardError("a grey picture of more than 16 bits: save it with 16 or 8")
    light = ((greys * 255 + 32767) // 65535).astype(np.uint8)
    through = picture.info.get("transparency")
    if isinstance(through, int):
        light[greys == through] = 255
    return Image.fromarray(light).convert("RGB")


def _of_inks(picture: Any) -> Image:
    """CMYK, by the profile that the file brings, if it does."""
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            found = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            found = None  # a profile that nobody can read is none
        if found is not None:
            return found
    rgb: Image = picture.convert("RGB")
    return rgb
