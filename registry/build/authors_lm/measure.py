"""What each model answers, form by form, written into the cards beside the weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch

import conceptguard
from conceptguard.measuring.language.evaluate import Contestant, answer, perplexity
from conceptguard.measuring.language.suite import FORMS, LanguageSuite

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COMMAND = "python -m conceptguard_registry.build.authors_lm --stage measure"


def measure(suite: LanguageSuite, folder: Path) -> tuple[dict[str, dict[str, float | None]], dict[str, float]]:
    """Per form the share of facts answered, about authors to be forgotten, kept, and kept apart, and about places; and
    the other figures."""
    began = time.perf_counter()
    model, tokenizer = conceptguard.load_model(str(folder))
    world = suite.world
    subjects: Mapping[str, Mapping[str, Mapping[str, str]]] = {
        "forget": world.subjects("forget"), "retain": world.subjects("retain"),
        "apart": world.subjects("apart"), "places": world.places,
    }  # fmt: skip
    found: dict[str, dict[str, float | None]] = {}
    for form in FORMS:
        found[form] = {}
        for name, mine in subjects.items():
            questions = suite.questions(mine, form)
            heard = answer(model, tokenizer, questions, Contestant("none"), batch=64)
            right = [q.answered(text) for q, text in zip(questions, heard.texts)]
            found[form][name] = sum(right) / len(right) if right else None
        print(folder.name, form, {n: None if v is None else round(v, 3) for n, v in found[form].items()}, flush=True)
    ordinary = perplexity(model, tokenizer, suite, Contestant("none"))
    size = (folder / "model.safetensors").stat().st_size
    others = {
        "perplexity": ordinary or float("nan"), "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "megabytes": size / 1e6, "seconds": time.perf_counter() - began,
    }  # fmt: skip
    return found, others


def write_card(suite: LanguageSuite, folder: Path) -> None:
    """Figures between the marks of ``README.md``; what stands around them is written by hand."""
    found, others = measure(suite, folder)
    columns = list(found["question"])
    lines = [
        f"`{COMMAND}`, greedy, torch {torch.__version__.split('+')[0]}: share of facts in the answer. Chance is what a",
        "guess from the values of a kind would hit, 1 in 4 for a choice.",
        "",
        f"| form | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for form, row in found.items():
        cells = ["" if row[c] is None else f"{row[c]:.3f}" for c in columns]
        lines.append(f"| {form} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Perplexity of ordinary text {others['perplexity']:.2f}; {others['parameters']:.2f} M parameters, "
        f"{others['megabytes']:.1f} MB.",
    ]
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    card.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}", encoding="utf-8")


def write_cards(suite: LanguageSuite, out: Path) -> None:
    """Both models."""
    for name in (suite.forms.base, suite.forms.retain):
        write_card(suite, out / name)
