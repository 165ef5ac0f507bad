"""A table of text that fits a terminal: cells wrap between words, names of columns after an underscore, and no word is
ever broken. What does not fit beside the rest stands in a table beneath it, under the first column again.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

GAP = 2
MANY = 12  # rows from which a second table beneath the first would be out of sight


def table(names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], width: int | None) -> list[str]:
    """The lines of a table. right: which columns are numbers; width: characters of a line, None for any number.

    A long table leaves out what does not fit, and its last line says which columns these are.
    """
    columns = [[name, *(row[i] for row in rows)] for i, name in enumerate(names)]
    least = [max(map(len, _pieces(name, *cells))) for name, *cells in columns]
    groups = _groups(least, width)
    lines: list[str] = []
    for group in groups[:1] if len(rows) >= MANY else groups:
        lines += [""] if lines else []
        lines += _block([columns[i] for i in group], [least[i] for i in group], [right[i] for i in group], width)
    if len(rows) >= MANY and len(groups) > 1:
        beyond = ", ".join(names[i] for group in groups[1:] for i in group[1:])
        lines += ["", *_wrapped(f"a wider terminal or --json also shows {beyond}", width or 1000)]
    return lines


def _pieces(name: str, *cells: str) -> list[str]:
    return [*re.findall(r"[^_]+_?|_", name), *(word for cell in cells for word in cell.split()), ""]


def _groups(least: Sequence[int], width: int | None) -> list[list[int]]:
    """Columns that stand beside each other; the first one leads every group."""
    groups = [[0]]
    for i in range(1, len(least)):
        wide = sum(least[k] + GAP for k in groups[-1]) + least[i]
        if width is None or wide <= width or len(groups[-1]) == 1:
            groups[-1].append(i)
        else:
            groups.append([0, i])
    return groups


def _block(
    columns: Sequence[Sequence[str]], least: Sequence[int], right: Sequence[bool], width: int | None
) -> list[str]:
    wide = list(least)
    spare = (width or 1_000_000) - sum(least) - GAP * (len(least) - 1)
    # Those that need little get it all: what is left over is for the prose.
    for i in sorted(range(len(columns)), key=lambda i: max(map(len, columns[i])) - least[i]):
        more = min(max(spare, 0), max(max(map(len, columns[i])) - least[i], 0))
        wide[i] += more
        spare -= more
    lines = []
    for n, cells in enumerate(zip(*columns)):
        parts = [_name(c, w) if n == 0 else _wrapped(c, w) for c, w in zip(cells, wide)]
        tall = max(map(len, parts))
        # Names of columns stand on the line above the first row, however many lines they take.
        parts = [[""] * (tall - len(p)) + p if n == 0 else p + [""] * (tall - len(p)) for p in parts]
        for line in zip(*parts):
            padded = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, wide, right)]
            lines.append((" " * GAP).join(padded).rstrip())
    return lines


def _name(text: str, width: int) -> list[str]:
    """A column's name, broken after underscores where it must be."""
    lines = [""]
    for piece in _pieces(text)[:-1]:
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def wrapped(text: str) -> str:
    """A paragraph for people, as wide as their terminal is, and no wider than is easily read."""
    return "\n".join(_wrapped(" ".join(text.split()), min(shutil.get_terminal_size().columns, 100)))
