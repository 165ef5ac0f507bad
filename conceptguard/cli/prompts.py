"""A file of prompts: lines of text, a CSV, or lines of JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .options import Usage

COLUMNS = ("prompt", "seed", "negative_prompt")
MAX_BYTES = 16 * 1024 * 1024


class Ask(NamedTuple):
    """One picture, or one text, that is asked for. seed: None where the file leaves it to the command."""

    prompt: str
    seed: int | None = None
    negative_prompt: str | None = None


def asked_for(prompt: Sequence[str] | None, file: Path | None) -> list[Ask]:
    """What ``--prompt`` and ``--prompts`` ask for. Raises Usage where neither asks for anything."""
    asks = [Ask(text) for text in prompt or []] + (read_prompts(file) if file else [])
    if not asks:
        raise Usage("no prompt: give --prompt TEXT, or --prompts FILE")
    return asks


def read_prompts(file: Path) -> list[Ask]:
    """All prompts of a ``.txt`` (one a line, blank ones and those that begin with # left out), a ``.csv`` whose first
    line names its columns, or a ``.jsonl`` of objects or texts. Raises Usage with the line that cannot be read.
    """
    readers = {".txt": _lines, ".csv": _table, ".jsonl": _objects, ".ndjson": _objects}
    read = readers.get(file.suffix.lower())
    if read is None:
        raise Usage(f"--prompts {file}: give a .txt, .csv or .jsonl file")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise Usage(f"--prompts {file}: larger than {MAX_BYTES:,} bytes: split it")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Usage(f"--prompts {file}: cannot be read ({error.strerror}): check the path") from None
    except UnicodeDecodeError:
        raise Usage(f"--prompts {file}: not UTF-8 text: save it as UTF-8") from None
    asks = list(read(text, file))
    if not asks:
        raise Usage(f"--prompts {file}: no prompt in it")
    return asks


def _lines(text: str, file: Path) -> Iterator[Ask]:
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield Ask(line.strip())


def _table(text: str, file: Path) -> Iterator[Ask]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "prompt" not in (rows.fieldnames or []):
            named = ", ".join(map(str, rows.fieldnames or [])) or "nothing"
            raise Usage(f"--prompts {file}: its first line must name a column 'prompt', and names {named}")
        for row in rows:
            yield _ask(row, f"{file}:{rows.line_num}")
    except csv.Error as error:  # a file that was cut short within quotes, for one
        raise Usage(f"--prompts {file}:{rows.reader.line_num}: no CSV ({error}): mend its quotes") from None


def _objects(text: str, file: Path) -> Iterator[Ask]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError:
            raise Usage(f"--prompts {file}:{number}: not JSON: write one object a line") from None
        yield _ask(found if isinstance(found, dict) else {"prompt": found}, f"{file}:{number}")


def _ask(row: Mapping[str, Any], where: str) -> Ask:
    """One row; columns beyond ours are somebody's own notes."""
    prompt, seed, negative = (row.get(name) for name in COLUMNS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise Usage(f"--prompts {where}: no text under 'prompt'")
    if seed in (None, ""):
        number = None
    elif isinstance(seed, (int, str)) and str(seed).strip().isdigit():
        number = int(seed)
    else:
        raise Usage(f"--prompts {where}: seed {seed!r} is no whole number")
    if negative is not None and not isinstance(negative, str):
        raise Usage(f"--prompts {where}: negative_prompt is no text")
    return Ask(prompt.strip(), number, negative or None)
