"""Words that the embedded model reads as a concept, and that nobody named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conceptguard_plugins.diffusion.rece import RECE
from conceptguard_plugins.diffusion.trce.method import TRCE
from tiny_transformers import tiny_wan

import conceptguard
from conceptguard.concept import as_concept
from conceptguard.making.edits import synonyms
from conceptguard.making.settings import make_settings
from conceptguard.making.task import Task
from conceptguard.plugins import host_for

KEPT = ["guitar", "sword", "flower"]


def found(pipe: Any, words: list[str], kept: list[str], share: float = 0.5) -> list[str]:
    task = Task(host_for(pipe), as_concept(words[0]), kept, None, 0, Path("."), "words", shown=False)
    return synonyms(task.host, words, kept, share, task)


def test_a_gun_is_a_pistol(pipe: Any) -> None:
    assert found(pipe, ["pistol"], KEPT) == ["gun"]
    assert found(pipe, ["pill"], KEPT) == ["drug", "capsule"], "nearest first"
    assert found(pipe, ["pistol", "gun"], KEPT) == [], "both are named"
    assert found(pipe, ["pistol", "a man with a gun"], KEPT) == [], "a part of what is named is not"
    assert found(pipe, ["pistol"], [*KEPT, "a gun"]) == [], "what is to stay is no other word for it"
    assert found(pipe, ["pistol"], KEPT, 0.1) == [], "nearer than any word is"
    assert len(found(pipe, ["pistol"], KEPT, 0.9)) > 1


def test_none_where_no_encoder_writes_into_an_end_token(tokenizer: Any) -> None:
    assert found(tiny_wan(tokenizer), ["pistol"], KEPT) == []


@pytest.mark.parametrize(("maker", "shut"), [(RECE, 0.6), (TRCE, 1.1)])
def test_what_is_found_opens_the_gate(pipe: Any, tmp_path: Path, maker: Any, shut: float) -> None:
    """Told the name alone, an artifact is open for the other word; without looking for any, rece is half shut."""
    gates = {}
    for share in (0.5, 0.0):
        made = maker.make(host_for(pipe), "pistol", tmp_path / str(share), preserve=KEPT, synonyms=share)
        assert made.manifest.made.get("also", []) == (["gun"] if share else [])
        assert made.manifest.concept.prompts == (["pistol", "gun"] if share else ["pistol"])
        guard = {"method": maker.name, "artifact": str(made.folder), **({"scale": 0} if maker is TRCE else {})}
        with conceptguard.attach(pipe, {"name": "pistols", "guards": [guard]}) as session:
            pipe(["a gun", "a guitar"], num_inference_steps=1, output_type="latent")
            gates[share] = session.receipt.acts[0].gates
    assert gates[0.5] == [0, 0, 1, 0] and gates[0.0][2] < shut, gates


def test_of_several_concepts_at_once_none_are_looked_for(pipe: Any, tmp_path: Path) -> None:
    made = RECE.make(host_for(pipe), ["pistol", "pill"], tmp_path, preserve=KEPT)
    assert "also" not in made.manifest.made and make_settings(RECE, {}).synonyms == 0.5
