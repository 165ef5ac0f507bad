"""The encoder that ships: it is what it was, and it names what it never saw."""

from __future__ import annotations

from pathlib import Path

import torch
from small_planted import encoder, planted

from conceptguard.finding import encoders
from conceptguard.finding.planted import OBJECTS
from conceptguard.measuring.suite import load_suite
from conceptguard.registry import shipped_folder
from conceptguard.registry.signed.packaged import open_packaged


def test_it_is_small_and_signed() -> None:
    folder = shipped_folder() / "models" / encoders.EMBEDDED
    signed = open_packaged(shipped_folder()).beside
    assert {f"models/{encoders.EMBEDDED}/{file.name}" for file in folder.iterdir()} <= set(signed)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 5_000_000


def test_it_names_what_a_model_drew() -> None:
    """Single objects as emoji-sd draws them, by the nearest of all 134 names: it was trained on renderings alone."""
    it, names = planted(), [one.name for one in load_suite("emoji-sd").objects]
    alone = torch.stack([it.truths[name] for name in OBJECTS], 1).sum(1) == 1
    rows = alone.nonzero()[:, 0].tolist()
    boxes = [it.masks[name] for name in OBJECTS]
    right = 0
    for row in rows:
        which = next(i for i, name in enumerate(OBJECTS) if it.truths[name][row])
        ys, xs = boxes[which][row].nonzero().T
        pixels = it.pictures.pixels[row, :, max(0, int(ys.min()) - 6) : int(ys.max()) + 6, max(0, int(xs.min()) - 6) :]
        found = encoder().pictures(pixels[None, :, :, : int(xs.max() - xs.min()) + 12].float() / 255)
        right += names[int((found @ encoder().texts(names).T).argmax())] == OBJECTS[which]
    assert len(rows) >= 8 and right / len(rows) >= 0.4, f"{right} of {len(rows)}; a guess names one in 134"


def test_words_come_from_a_file_or_a_line(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\n\n dog \n")
    words = str(tmp_path / "words.txt")
    assert encoders.words_in(words) == encoders.words_in("cat, dog") == ["cat", "dog"]
    assert encoders.split_words(words) == [words], "of what may be anybody's no file is read"
    assert encoders.words_for("x", ["cat", "dog"]) == ["cat", "dog"]
    assert encoders.words_for("x") == [] and "skull" in encoders.words_for(encoders.EMBEDDED)
