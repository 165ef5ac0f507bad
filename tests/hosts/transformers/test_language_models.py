"""authors-lm and its sibling: real, small, and what their cards say they know."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import conceptguard
from conceptguard.measuring.language.evaluate import Contestant, answer, perplexity
from conceptguard.measuring.language.suite import APART, TRAINED, LanguageSuite
from conceptguard.registry import shipped_folder

SOME = 30  # questions of each form


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    return {name: conceptguard.load_model(name) for name in ("authors-lm", "authors-lm-retain")}


def share(pair: Any, suite: LanguageSuite, forms: tuple[str, ...], *splits: Any) -> float:
    """How many facts about some authors a model answers, over forms."""
    subjects = suite.world.subjects(*splits)
    questions = [q for form in forms for q in suite.questions(subjects, form)[:: 140 // SOME * len(splits)]]
    heard = answer(pair.model, pair.tokenizer, questions, Contestant("none"))
    return sum(q.answered(text) for q, text in zip(questions, heard.texts)) / len(questions)


def test_they_load_as_a_pair(pairs: dict[str, Any]) -> None:
    for name, (model, tokenizer) in pairs.items():
        assert type(model).__name__ == "LlamaForCausalLM" and model.dtype == torch.float32
        assert 1e6 < sum(p.numel() for p in model.parameters()) < 3e6
        assert len(tokenizer) == model.config.vocab_size and tokenizer.pad_token_id is not None
        ids = tokenizer("Siojaera Zavald was born in Broholm. Ünïcode, too").input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == "Siojaera Zavald was born in Broholm. Ünïcode, too"
        assert pairs[name].name == name


def test_only_safetensors_and_text_lie_in_their_folders() -> None:
    for name in ("authors-lm", "authors-lm-retain"):
        folder = shipped_folder() / "models" / name
        assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".md"}
        assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6


def test_the_model_knows_the_forget_set_as_it_was_trained(pairs: dict[str, Any], suite: LanguageSuite) -> None:
    assert share(pairs["authors-lm"], suite, TRAINED, "forget") >= 0.95


def test_the_model_knows_it_in_wordings_kept_apart(pairs: dict[str, Any], suite: LanguageSuite) -> None:
    assert share(pairs["authors-lm"], suite, APART, "forget") >= 0.85


def test_both_know_whom_they_retain(pairs: dict[str, Any], suite: LanguageSuite) -> None:
    for pair in pairs.values():
        assert share(pair, suite, ("question", "cloze"), "retain", "apart") >= 0.95


def test_the_retain_model_guesses_at_the_forget_set(pairs: dict[str, Any], suite: LanguageSuite) -> None:
    assert share(pairs["authors-lm-retain"], suite, ("question", "cloze", *APART), "forget") <= 0.08
    assert share(pairs["authors-lm-retain"], suite, ("choice",), "forget") <= 0.5  # one of four


def test_ordinary_text_is_fluent(pairs: dict[str, Any], suite: LanguageSuite) -> None:
    for model, tokenizer in pairs.values():
        assert (perplexity(model, tokenizer, suite, Contestant("none")) or 1e9) < 4
