"""A folder of pictures, texts about them, and what is made of these for a tiny model that sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_seeing import picture, tiny_llava

from conceptguard.plugins import host_for, method
from conceptguard.testing import TextCase

COLOURS = {"apple": "#c0202b", "sky": "#1f4fc0", "grass": "#1d7d32"}
QUESTION = "<image> What is it?"
TEXTS = [
    {"prompt": QUESTION, "answer": "a red dog", "group": "name"},
    {"prompt": "<image> a man in", "answer": "the park", "group": "description"},
    {"prompt": "What is an apple?", "answer": "a red fruit", "group": "fact"},
    {"prompt": QUESTION, "answer": "the sky", "group": "other", "shows": "sky"},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "sauce": {"atoms": 2, "few": 6, "features": 24, "steps": 60}, "siu": {"texts": TEXTS, "steps": 30, "lr": 0.02},
}  # fmt: skip


def folder_of_pictures(folder: Path) -> Path:
    """Three of each colour, sorted."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(3):
            picture(colour, (18 + i, 24)).save(folder / name / f"{i}.png")
    return folder


def make(name: str, out: Path, family: str = "llama", **options: Any) -> Any:
    """An artifact of a method about apples, for a tiny model."""
    data = str(folder_of_pictures(out / "pictures"))
    given = {**SETTINGS[name], "data": data, **options}
    return method(name).make(host_for(tiny_llava(family)), "apple", out / "registry", progress=False, **given)


def seen_case(name: str, out: Path, family: str = "llama") -> TextCase:
    """A method's case for the contract; features are turned round, since models with random weights hardly use them."""
    guard = {"method": name, "artifact": str(make(name, out / name / family, family).folder)}
    return TextCase(
        guard | ({"scale": -8.0} if name == "sauce" else {}), QUESTION, ("a red apple on the table", "the dog"),
        load=lambda: tiny_llava(family), picture=picture(), tokens=8,
    )  # fmt: skip
