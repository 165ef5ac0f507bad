"""Pictures that say under which policy they were made: PNG metadata and, signed, C2PA content credentials."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConceptGuardError
from ..files.atomic import write_bytes
from ..receipt import Receipt
from ..version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

    from .credentials import Credentials

KEY = "conceptguard"  # of the text chunk in a PNG
_MOST = 1_000_000  # bytes of a text chunk that are read of a stranger's picture


@dataclass(frozen=True)
class Told:
    """What a picture says of itself. text: its PNG metadata, which anybody can write; None where it has none

    credentials: what its content credentials say; None where it has none; state: whether these hold: ``Trusted`` (by a
    signer that is known), ``Valid`` (whole, by somebody), ``Invalid``, ``unread`` where c2pa-python is not installed
    """

    text: dict[str, Any] | None
    credentials: dict[str, Any] | None
    state: str | None
    signer: str | None = None
    ingredients: tuple[str, ...] = ()


def save_picture(
    image: Image, file: str | Path, receipt: Receipt, *, prompts: bool = False, number: int = 0,
    credentials: Credentials | None = None, source: str | Path | None = None,
) -> Path:  # fmt: skip
    """Save a picture as PNG, with a summary of its receipt in it: policy, guards that acted, what was found.

    prompts: whether the prompt and the guards' own words about it are written as well; number: which picture of the
    call it is; credentials: whose key signs the same as content credentials (C2PA); source: the picture file that it
    was made from, whose own credentials are kept as an ingredient. Raises ConceptGuardError where the file cannot be
    written or nothing can be signed: an unsigned picture is not left behind then.
    """
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise ConceptGuardError(f"{path}: a picture that says how it was made is a PNG: give a name that ends in .png")
    told = {"conceptguard": __version__, **receipt.summary(prompts, number)}
    content = _png(image, told)
    if credentials is not None:
        from .credentials import signed

        content = signed(content, told, path.name, credentials, None if source is None else Path(source))
    elif source is not None:
        raise ConceptGuardError("source is for content credentials: give credentials as well, or leave it out")
    write_bytes(path, content)
    return path


def _png(image: Image, told: Mapping[str, Any]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in image.info.items():  # of others, as web UIs write them
        if isinstance(key, str) and isinstance(value, str) and key != KEY:
            info.add_itxt(key, value)
    info.add_itxt(KEY, json.dumps(told, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_picture(file: str | Path) -> Told:
    """What a picture says of how it was made. Nothing is fetched. Raises ConceptGuardError for what is no picture."""
    from ..files.pictures import open_picture
    from .credentials import read

    path = Path(file)
    open_picture(path)  # whether it is one
    told, state, signer, ingredients = read(path)
    return Told(_text(path), told, state, signer, ingredients)


def _text(path: Path) -> dict[str, Any] | None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()  # chunks may follow the pixels
        found = picture.info.get(KEY)
    if not isinstance(found, str) or len(found) > _MOST:
        return None
    try:
        told = json.loads(found)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
