"""The embedded classifier, and what judges it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from paths import ROOT

NAME = "emoji-classifier"
FOLDER = ROOT / "registry" / "models" / NAME


def classifier(variant: str | None = None) -> Any:
    """A fresh one."""
    from conceptguard import load_model

    return load_model(NAME, variant=variant)


@cache
def bench(variant: str | None = None) -> Any:
    """What judges it; its net is not to be changed."""
    from conceptguard.measuring.classifier.run import Bench

    return Bench(classifier(variant))


def made(method: str, concept: str, out: Path, variant: str | None = None, **options: Any) -> Any:
    """An artifact of one of its forget sets, or of a class."""
    from conceptguard import host_for
    from conceptguard.plugins import method as named

    judged = bench(variant)
    about = {"name": concept, "prompts": judged.examples.forget.get(concept, [concept])}
    return named(method).make(host_for(judged.net), about, out, progress=False, **options)
