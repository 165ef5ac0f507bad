"""Pictures of a training while it runs: they show it, and change nothing of it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import said
from PIL import Image
from tiny import clip_tokenizer, tiny_sd
from tiny_transformers import tiny_sd3
from trained import weights

from conceptguard import plugins
from conceptguard.errors import PolicyError
from conceptguard.making.preview import LABEL, preview_file
from conceptguard.plugins import host_for

BEER = {"name": "beer", "prompts": ["beer", "ale"]}
SHORT: dict[str, Any] = {"steps": 4, "batch": 1, "templates": ["{}"], "preserve": ["milk"], "progress": False}
QUICK: dict[str, dict[str, Any]] = {
    "esd": {"trajectory_steps": 2, "lr": 0.1},
    "spm": {"trajectory_steps": 2, "anchors": 1, "lr": 0.1},
    "advunlearn": {"trajectory_steps": 2, "warmup": 4, "retain": 1, "views": 2, "refresh": 2, "pool": 1, "lr": 0.1},
    "doco": {"batch": 2, "warmup": 1, "shots": 2, "width": 8, "lr": 0.1},
    "salun": {"shots": 2, "views": 2, "lr": 0.1},
}

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pipe: Any, method: str, out: Path, **options: Any) -> Any:
    return plugins.method(method).make(host_for(pipe), BEER, out, **{**SHORT, **QUICK[method], **options})


def rows_of(file: Path, columns: int, rows: int) -> np.ndarray:
    """[rows, columns, height, width, 3] of a sheet."""
    sheet = np.array(Image.open(file))[16:, LABEL:]
    parts = [np.split(row, columns, axis=1) for row in np.split(sheet, rows, axis=0)]
    return np.array(parts).astype(int)


@pytest.mark.parametrize("method", QUICK)
def test_a_row_every_so_many_steps_and_the_same_artifact(method: str, tmp_path: Path) -> None:
    made = make(tiny_sd(clip_tokenizer()), method, tmp_path / "shown", preview=2)
    shown = rows_of(preview_file(made.folder), 3, 2)
    assert (shown[0] != shown[1]).any(), "what is learnt between two rows is seen"
    quiet = make(tiny_sd(clip_tokenizer()), method, tmp_path / "quiet")
    assert weights(made) == weights(quiet)
    assert not preview_file(quiet.folder).exists()


def test_a_flow_model_is_shown_as_well(tmp_path: Path) -> None:
    made = make(tiny_sd3(clip_tokenizer()), "esd", tmp_path, preview=4)
    assert rows_of(preview_file(made.folder), 3, 1).any()


def test_what_has_nothing_to_show_says_so(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="'uce' has no pictures to show while it makes"):
        plugins.method("uce").make(host_for(pipe), BEER, tmp_path, preview=2, progress=False)
    assert not list(tmp_path.iterdir())


def test_every_method_that_promises_pictures_shows_them() -> None:
    """And the other way round, as far as sources tell."""
    for name, method in plugins.methods().items():
        package = method.__module__.rpartition(".")[0]
        files = [inspect.getsource(inspect.getmodule(one)) for one in method.__mro__ if "plugins" in one.__module__]  # type: ignore[arg-type]
        if package.rpartition(".")[2] not in ("diffusion", "language", "pictures"):
            files += [file.read_text() for file in Path(inspect.getfile(method)).parent.glob("*.py")]
        assert any("previews(task" in text for text in files) == method.previews, name


def test_the_command_says_where_to_look(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["trajectory_steps=2", "templates=['{}']", "batch=1"]
    given = [word for option in options for word in ("--set", option)]
    _, told = said(capsys, "make", "esd", "--concept", "beer", "--steps", 1, "--preview", 1, "--try", 0,
                   "--out", "reg", *given)  # fmt: skip
    assert "reg/emoji-sd-esd-beer-preview.png shows how it goes" in told
    assert Image.open("reg/emoji-sd-esd-beer-preview.png").width == LABEL + 128
