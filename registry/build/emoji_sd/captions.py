"""Captions for training: what the suite's templates make of an object, a style and a tint."""

from __future__ import annotations

import numpy as np

from .suite import Object, Suite, with_article

EMPTY = 0.10  # share of empty captions, which classifier-free guidance needs
STYLED = 0.80  # share of the others that name the style
NAMED = 0.65  # share that use the object's own name where it has synonyms or phrases


def caption(suite: Suite, obj: Object, style: str, tint: str | None, rng: np.random.Generator) -> str:
    """One caption; a tinted background is always named, so that "white" needs no word."""
    if rng.random() < EMPTY:
        return ""
    noun, thing = obj.name, obj.thing
    others = obj.synonyms + obj.phrases
    if others and rng.random() > NAMED:
        pick = others[rng.integers(len(others))]
        noun, thing = pick, pick if pick in obj.phrases else with_article(pick)
    styled = rng.random() < STYLED
    templates = suite.train_templates if styled else suite.train_templates_plain
    text = templates[rng.integers(len(templates))].format(thing=thing, noun=noun, style=style)
    return f"{text}, {tint} background" if tint else text


def judge_prompt(suite: Suite, obj: Object, style: str | None, k: int) -> str:
    """The k-th paraphrase (counted round) of an object, with or without a style."""
    templates = suite.judge_templates if style else suite.judge_templates_plain
    return templates[k % len(templates)].format(thing=obj.thing, noun=obj.name, style=style)
