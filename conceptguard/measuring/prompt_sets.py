"""Prompt sets as their authors' files have them: which column asks, with which seed and guidance, and of which kind.

The names are those of the published files: I2P, UnlearnDiffAtk's, P4D's and Ring-A-Bell's violence prompts have
``prompt``, ``evaluation_seed`` and ``evaluation_guidance``, Ring-A-Bell's nudity prompts ``sensitive prompt``, and
MMA-Diffusion's ``adv_prompt`` beside the plain prompt that it stands for. None of them ships: they are read where the
user keeps them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RegistryError, shown
from .prompt_files import read_rows

# The first one that a file has counts: what an attack made stands before the prompt that it was made from.
ASKED = ("adv_prompt", "sensitive prompt", "prompt", "text", "caption")
SEEDS = ("evaluation_seed", "sd_seed", "seed")
GUIDANCES = ("evaluation_guidance", "sd_guidance_scale", "guidance", "guidance_scale")
MOST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Prompt:
    """One row. seed, guidance: None where the file has no such column; fields: all its values, as texts or numbers."""

    text: str
    seed: int | None = None
    guidance: float | None = None
    where: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class PromptSet:
    """Prompts from one source. column: which one asked; total: rows before any were left out."""

    source: str
    column: str
    prompts: tuple[Prompt, ...]
    total: int

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """Of texts, seeds and guidances: two sets of one digest ask the same."""
        asked = json.dumps([(one.text, one.seed, one.guidance) for one in self.prompts])
        return hashlib.sha256(asked.encode()).hexdigest()


def load_prompts(source: str | Path, *, column: str = "", where: Sequence[str] = (), first: int = 0) -> PromptSet:
    """The prompts of a file, folder or package file, see ``read_rows``.

    column: which one asks, where it is none of ``ASKED``
    where: rows that are wanted: ``categories=sexual`` (one of those in a list with commas), ``nudity_percentage>50``
    first: so many of them; 0 takes all

    Raises RegistryError for a file without the column, without rows, or with a row that cannot be asked.
    """
    rows = read_rows(source)
    names = list(rows[0][1]) if rows else []
    if not rows:
        raise RegistryError(f"{source}: no rows: it is empty, or cut short after its first line")
    asks = column or next((name for name in ASKED if name in names), "")
    if asks not in names:
        wanted = f"'{asks}'" if asks else " or ".join(f"'{name}'" for name in ASKED)
        raise RegistryError(
            f"{source}: no column {wanted}: it has {', '.join(map(str, names))}; say which one asks with --column"
        )
    keep = [_condition(text, names, str(source)) for text in where]
    chosen = [(place, row) for place, row in rows if all(test(place, row) for test in keep)]
    if not chosen:
        raise RegistryError(f"{source}: none of its {len(rows)} rows is {' and '.join(where)}")
    seeds, guidances = (next((name for name in known if name in names), "") for known in (SEEDS, GUIDANCES))
    found = [_prompt(place, row, asks, seeds, guidances) for place, row in (chosen[:first] if first else chosen)]
    return PromptSet(str(source), asks, tuple(found), len(rows))


def _prompt(place: str, row: Mapping[str, Any], asks: str, seeds: str, guidances: str) -> Prompt:
    text = row.get(asks)
    if not isinstance(text, str) or not text.strip():
        raise RegistryError(
            f"{place}: no text under '{asks}': the row is cut short, or a program took its text for a missing value, "
            "as copies of I2P have it; write it back, or remove the row"
        )
    seed = _number(place, seeds, row.get(seeds)) if seeds else None
    if seed is not None and not (seed.is_integer() and 0 <= seed <= MOST_SEED):
        raise RegistryError(f"{place}: {seeds} {seed:g} is no seed: give a whole number from 0")
    guidance = _number(place, guidances, row.get(guidances)) if guidances else None
    whole = None if seed is None else int(str(row[seeds])) if str(row[seeds]).strip().isdigit() else int(seed)
    return Prompt(text.strip(), whole, guidance, place, row)


def _number(place: str, name: str, value: Any) -> float:
    """Raises RegistryError for what is none: a column that some rows leave empty says nothing about these."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise RegistryError(f"{place}: {name} is {shown(repr(value))}, no number: the row is cut short; mend it")
    return found


_CONDITION = re.compile(r"\s*(.+?)\s*(>=|<=|>|<|=)\s*(.+?)\s*\Z")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b, "<": lambda a, b: a < b, ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b,
}  # fmt: skip


def _condition(text: str, names: Sequence[str], source: str) -> Callable[[str, Mapping[str, Any]], bool]:
    parts = _CONDITION.match(text)
    if parts is None:
        raise RegistryError(f"'{text}': write COLUMN=VALUE, COLUMN>NUMBER or COLUMN<NUMBER")
    name, sign, value = parts.groups()
    if name not in names:
        raise RegistryError(f"{source}: no column '{name}' to choose by: it has {', '.join(map(str, names))}")
    if sign == "=":
        return lambda place, row: value in [part.strip() for part in str(row[name]).split(",")]
    limit = _number(f"'{text}'", name, value)
    return lambda place, row: _COMPARE[sign](_number(place, name, row[name]), limit)
