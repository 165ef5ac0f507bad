"""``conceptguard astar`` and ``conceptguard magicmix``: pictures, figures, and one line for what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import reported
from PIL import Image
from tiny import generate

import conceptguard
from conceptguard.cli import run

pytestmark = pytest.mark.usefixtures("model", "somewhere")


def test_astar_compares(capsys: pytest.CaptureFixture[str], tiny: Any) -> None:
    whole = reported(capsys, "astar", "--prompt", "a dog and a cat", "--compare", "--scale", 20, "--steps", 3,
                     "--images", 2, "--out", "out")  # fmt: skip
    assert whole["concepts"] == ["dog", "cat"] and [row["scale"] for row in whole["rows"]] == [0, 0, 20, 20]
    bare, moved = whole["rows"][0], whole["rows"][2]
    assert 0 < moved["overlap"] < 0.5 and moved["overlap"] != bare["overlap"]
    assert Path(bare["file"]).read_bytes() != Path(moved["file"]).read_bytes()
    want = tiny("a dog and a cat", num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    assert list(Image.open(bare["file"]).getdata()) == list(want.getdata()), "without it is the model's own"
    assert any("cost 6 more passes" in note for note in whole["receipt"]["acts"][0]["notes"])


def test_magicmix_of_two_prompts_is_the_guard(capsys: pytest.CaptureFixture[str], tiny: Any, tmp_path: Path) -> None:
    whole = reported(capsys, "magicmix", "--layout", "a dog", "--content", "a cat", "--steps", 6, "--out", "mixed.png")
    assert whole["receipt"]["acts"][0]["steps"] == [2, 3, 4, 5]
    concept = {"name": "dog", "prompts": ["a dog"], "replacement": "a cat"}
    with conceptguard.attach(tiny, {"guards": [{"method": "magicmix", "gate": "always", "concept": concept}]}):
        want = generate(tiny, "a dog", num_inference_steps=6, output_type="pil", seeds=[0])[0]
    assert list(Image.open("mixed.png").getdata()) == list(want.getdata())


def test_magicmix_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    whole = reported(capsys, "magicmix", "--layout", "a red dog", "--without", "dog", "--content", "frog", "--steps", 2)
    assert whole["receipt"]["acts"][0]["notes"][0].endswith("then the content of 'a red frog'")


def test_magicmix_of_a_picture_keeps_its_layout(capsys: pytest.CaptureFixture[str]) -> None:
    """The less the content has to say, the nearer the picture; at ν 0 until the end it is what was given."""
    given = Image.linear_gradient("L").resize((96, 64))
    given.save("given.png")
    far = {}
    for nu in (0, 0.5, 1):
        whole = reported(capsys, "magicmix", "--layout", "given.png", "--content", "a cat", "--nu", nu, "--kmin", 0,
                         "--steps", 10, "--out", f"{nu}.png")  # fmt: skip
        assert "the layout of the picture" in whole["receipt"]["acts"][0]["notes"][0]
        far[nu] = torch.tensor(list(Image.open(f"{nu}.png").convert("L").getdata())).float()
    assert (far[0] - far[0.5]).abs().mean() < (far[0] - far[1]).abs().mean()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["magicmix", "--layout", "dog", "--content", "Dog"], "there is nothing to mix"),
        (["magicmix", "--layout", "dog"], "nothing to mix in"),
        (["magicmix", "--layout", " ", "--content", "dog"], "--layout is empty"),
        (["magicmix", "--layout", "dog", "--without", "cat"], "'cat' not in the layout's prompt"),
        (["magicmix", "--layout", "dog", "--without", "dog", "--content", "a dog"], "brings back 'dog'"),
        (["magicmix", "--layout", "dog", "--content", "cat", "--kmin", "0.7"], "kmin 0.7 is not below kmax 0.6"),
        (["magicmix", "--layout", "no.png", "--content", "cat"], "there is no such picture"),
        (["magicmix", "--layout", "text.png", "--content", "cat"], "no picture that can be read"),
        (["magicmix", "--layout", "dog", "--content", "cat", "--images", "2", "--out", "a.png"], "is one file"),
        (["magicmix", "--layout", "dog", "--content", "cat", "--out", "a.jpg"], "written as .png"),
        (["astar", "--prompt", "dog"], "'dog' cannot be kept apart"),
        (["astar", "--prompt", "a dog and a cat", "--concepts", ","], "nothing cannot be kept apart"),
        (["astar", "--prompt", "a dog and a cat", "--concepts", "dog,fish"], "'fish' not in the prompt"),
        (["astar", "--prompt", "a dog and a cat", "--no-segregation", "--no-retention"], "leave nothing to do"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("not a picture")
    assert run(words) == (2 if "--out" in words else 1)
    error = capsys.readouterr().err.strip()
    assert complaint in error and "\n" not in error
    assert not list(Path().glob("*dog*"))
