"""What every reporting command prints: a table for people, or one JSON object (`--json FILE`, `-` is standard
output).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import printable

Rows = Sequence[Mapping[str, Any]]


def report(
    command: str,
    rows: Rows,
    seconds: float,
    json_target: str | None,
    device: str = "cpu",
    *,
    columns: Sequence[str] | None = None,
    **extra: Any,
) -> None:
    """Print `rows` as a table, or write one object with `command`, `version`, `device`, `seconds`, `rows` and
    `extra`.

    With a file as target the table is printed as well; with `-` only JSON goes to standard output. `columns`
    chooses what the table shows; the JSON always holds all.
    """
    if json_target:
        write_json(result(command, rows, seconds, device, **extra), json_target)
    if json_target != "-":
        print_table(rows, columns)


def result(command: str, rows: Rows, seconds: float, device: str = "cpu", **extra: Any) -> dict[str, Any]:
    """The object that a command reports; `seconds` is its wall-clock time."""
    head = {"command": command, "version": version(), "device": device, "seconds": round(seconds, 3)}
    return {**head, **extra, "rows": [dict(row) for row in rows]}


def version() -> str:
    """The version of this package."""
    import conceptguard

    return str(getattr(conceptguard, "__version__", "0"))


def write_json(fields: Mapping[str, Any], target: str) -> None:
    """Write strict JSON to a file, at once, or to standard output (`-`). Numbers that are not finite become
    null.
    """
    text = json.dumps(_plain(fields), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    from conceptguard.files.atomic import write_bytes

    write_bytes(Path(target), text.encode())


def print_table(rows: Rows, columns: Sequence[str] | None = None) -> None:
    """``table_lines`` for whoever reads: in a terminal they fit its width."""
    # Piped into a file or another program there is no width to fit: one line a row, and nothing is left out.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    lines = table_lines(rows, columns, width)
    if lines:
        print("\n".join(lines))


def table_lines(rows: Rows, columns: Sequence[str] | None = None, width: int | None = None) -> list[str]:
    """A table of the given columns, or of all that occur, in order of first appearance; empty columns are
    left out.
    """
    from .table import table

    shown = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    shown = [key for key in shown if any(row.get(key) not in (None, "") for row in rows)]
    if not rows or not shown:
        return []
    cells = [[_cell(row.get(key)) for key in shown] for row in rows]
    numbers = [all(isinstance(row.get(key), (int, float, type(None))) for row in rows) for key in shown]
    return table(shown, cells, numbers, width)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return printable(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if isinstance(value, int) else str(value)
