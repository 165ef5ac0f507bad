"""Concepts as they are typed: one or many, or a file of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .options import Usage, split


def concepts_of(
    given: Sequence[str], file: Path | None, prompts: Sequence[str], replacement: str, together: bool = False
) -> dict[str, Any] | list[Any]:
    """What ``Method.make`` takes: a concept, or a list where there are several, a file, or a name for them together.

    given: ``NAME`` or ``NAME: A,B``; file: such lines, or a YAML list; prompts, replacement: of a single concept, and
    what replaces those that do not say it. Raises Usage and PolicyError.
    """
    found = [*map(_typed, given), *(_read(file) if file else [])]
    if not found:
        raise Usage("what is to be erased? write --concept NAME, again and again for several, or --concepts FILE")
    several = together or file is not None or len(found) > 1
    if several and prompts:
        raise Usage("--prompts is for one concept: of several, write --concept 'NAME: A,B'")
    if prompts:
        found[0]["prompts"] = list(prompts)
    for one in found:
        if isinstance(one, dict):
            one.setdefault("replacement", replacement)
    return found if several else found[0]


def _typed(text: str) -> dict[str, Any]:
    name, colon, words = text.partition(":")
    if not name.strip():
        raise Usage(f"--concept {text!r}: write NAME, or 'NAME: A,B'")
    return {"name": name.strip(), "prompts": split(words) if colon else [name.strip()]}


def _read(file: Path) -> list[Any]:
    from ..errors import PolicyError
    from ..files.yaml import read_yaml

    if file.suffix in (".yaml", ".yml"):
        listed, _ = read_yaml(file.expanduser(), error=PolicyError)
        if not isinstance(listed, list):
            raise PolicyError(f"{file}: not a list of concepts: write '- NAME' or '- {{name: NAME, prompts: [A, B]}}'")
        return [_typed(one) if isinstance(one, str) else one for one in listed]
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"--concepts {file}: cannot be read ({error}): give a text or YAML file") from None
    return [_typed(line) for line in lines if line.strip()]
