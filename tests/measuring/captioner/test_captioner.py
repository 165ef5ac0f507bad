"""What a captioner is judged by, on one that was taught nothing: all the ways, and what they are apart from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conceptguard_registry.build.emoji_captioner.model import SIZE, export, make_processor
from PIL import Image

import conceptguard
from conceptguard.cli import run
from conceptguard.errors import PolicyError
from conceptguard.making.examples import load_examples
from conceptguard.measuring.captioner.evaluate import questions
from conceptguard.measuring.captioner.run import Bench
from conceptguard.measuring.captioner.words import load_words
from conceptguard.registry import shipped_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untaught captioner with pictures of noise."""
    from conceptguard_registry.build.emoji_captioner.lessons import lessons_of
    from conceptguard_registry.build.emoji_captioner.model import learn_tokenizer, make_model

    out, words, rng = tmp_path_factory.mktemp("captioner"), load_words(), np.random.default_rng(0)
    corpus = [one for name in words.things for one in lessons_of(words, name, "noto", rng)]
    tokenizer = learn_tokenizer(f"{one.prompt} {one.answer}" for one in corpus)
    torch.manual_seed(0)
    export(make_model(tokenizer, shipped_folder() / "models" / "emoji-encoder"), make_processor(tokenizer), out)
    names, styles = list(words.things), words.styles
    noise = rng.integers(0, 255, (len(names) * SIZE, len(styles) * SIZE, 3), np.uint8)
    Image.fromarray(noise).save(out / "examples.png")
    said = {"classes": names, "styles": styles, "unseen": [], "held": {}, "sheet": "examples.png", "tile": SIZE,
            "size": SIZE, "views": 1, "seed": 0}  # fmt: skip
    (out / "examples.yaml").write_text(yaml.safe_dump(said))
    return out


def test_what_judges_is_apart(folder: Path) -> None:
    words, rng = load_words(), np.random.default_rng(0)
    taught = {words.lesson(kind, "dog", "noto", rng).prompt for kind in ("name", "fact", "is") for _ in range(60)}
    taught |= {one.prompt for one in words.told("dog")}
    asked = questions(words, folder, "dog", 4)
    judging = {one.lesson.prompt for some in asked.values() for one in some if "Caption" not in one.lesson.prompt}
    assert judging and not taught & judging
    made, judged = (load_examples(folder, again).inputs for again in (0, 7))
    assert not torch.equal(made, judged) and made.shape == judged.shape
    assert asked["erased"][0].right("a dog, mono style") and not asked["erased"][0].right("a doghouse")
    assert asked["unnamed"][0].right("it barks") and not asked["unnamed"][0].right("it purrs and hunts mice")


def test_what_is_refused(folder: Path, capsys: Any) -> None:
    with pytest.raises(PolicyError, match="knows no 'zebra'"):
        Bench(conceptguard.load_model(str(folder)), 1).asked("zebra")
    with pytest.raises(PolicyError, match="does not come with pictures"):
        Bench(conceptguard.load_model("authors-lm"), 1)
    assert run(["eval", "--suite", "captioner", "--model", "authors-lm", "--method", "sauce"]) != 0
    assert "does not come with pictures" in capsys.readouterr().err
    assert run(["say", "--picture", str(folder / "examples.png"), "--policy", "none", "--prompt", "x"]) != 0
    assert "reads text alone" in capsys.readouterr().err


def test_rows_and_controls_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    told = tmp_path / "rows.json"
    words = ["--method", "sauce", "--method", "siu", "--concepts", "dog", "--n", "2", "--set", "steps=2"]
    assert run(["eval", "--suite", "captioner", "--model", str(folder), *words, "--json", str(told)]) == 0
    rows = json.loads(told.read_text())["rows"]
    assert [row["method"] for row in rows] == ["none", "sauce", "sauce, random", "siu"]
    assert not [row["refused"] for row in rows if "refused" in row]
    assert all({"erased_after", "unnamed_after", "told_after", "others_after"} <= row.keys() for row in rows)
    assert run(["say", "--model", str(folder), "--picture", str(folder / "examples.png"), "--policy", "none",
                "--prompt", "Caption:", "--tokens", "2", "--json", str(told)]) == 0  # fmt: skip
    assert json.loads(told.read_text())["rows"][0]["tokens"] > 0
