"""The embedded captioner, and what guards are judged by on it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import conceptguard
from conceptguard.cli import run
from conceptguard.errors import PolicyError
from conceptguard.making.examples import load_examples
from conceptguard.measuring.captioner.evaluate import questions
from conceptguard.measuring.captioner.run import Bench
from conceptguard.measuring.captioner.words import load_words
from conceptguard.registry import shipped_folder

FOLDER = shipped_folder() / "models" / "emoji-captioner"


@cache
def bench() -> Bench:
    return Bench(conceptguard.load_model("emoji-captioner"), 8)


def share(row: dict[str, Any], name: str) -> float:
    return float(row[f"{name}_after"])


def test_it_says_what_it_sees() -> None:
    words, examples = load_words(), load_examples(FOLDER, again=3)
    assert sorted(examples.classes) == sorted(words.things) and len({fact for _, fact in words.things.values()}) == 134
    row = bench().bare("skull")
    for name in ("erased", "neighbours", "others", "admitted", "unnamed", "told"):
        assert share(row, name) >= 0.9, (name, row)
    assert not row["passes"], "doing nothing does not pass"


def test_what_judges_is_apart() -> None:
    words = load_words()
    rng: Any = __import__("numpy").random.default_rng(0)
    taught = {words.lesson(kind, "dog", "noto", rng).prompt for kind in ("name", "fact", "is") for _ in range(60)}
    taught |= {one.prompt for one in words.told("dog")}
    asked = questions(words, FOLDER, "dog", 4)
    judging = {one.lesson.prompt for some in asked.values() for one in some if "Caption" not in one.lesson.prompt}
    assert not taught & judging
    made, judged = (load_examples(FOLDER, again).inputs for again in (0, 7))
    assert not torch.equal(made, judged) and made.shape == judged.shape
    with pytest.raises(PolicyError, match="knows no 'zebra'"):
        bench().asked("zebra")
    with pytest.raises(PolicyError, match="does not come with pictures"):
        Bench(conceptguard.load_model("authors-lm"), 1)


def test_a_picture_is_asked_about_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    examples = load_examples(FOLDER)
    place = examples.keys.index("dog/noto/0")
    pixels = (examples.inputs[place] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "dog.png")
    told = tmp_path / "said.json"
    ask = ["say", "--model", "emoji-captioner", "--picture", str(tmp_path / "dog.png"), "--policy", "none"]
    assert run([*ask, "--prompt", "Caption:", "--json", str(told)]) == 0
    assert json.loads(told.read_text())["rows"][0]["text"] == "a dog, noto style"
    assert run(["say", "--picture", str(tmp_path / "dog.png"), "--prompt", "x"]) == 1
    assert "reads text alone" in capsys.readouterr().err


@pytest.mark.slow
def test_methods_are_judged_beside_their_controls(tmp_path: Path) -> None:
    told = tmp_path / "rows.json"
    assert run(["eval", "--suite", "captioner", "--method", "sauce", "--method", "siu", "--concepts", "dog", "--n", "8",
                "--json", str(told)]) == 0  # fmt: skip
    none, sauce, chance, siu = json.loads(told.read_text())["rows"]
    assert (none["method"], chance["method"]) == ("none", "sauce, random")
    assert share(sauce, "erased") <= 0.2 and share(sauce, "unnamed") <= 0.2
    assert share(chance, "erased") >= 0.6, "features at random are not the concept's"
    assert share(siu, "erased") <= 0.2 and share(siu, "unnamed") <= 0.2
    for row in (sauce, siu):
        assert share(row, "told") == row["told_before"] and share(row, "others") >= 0.7
