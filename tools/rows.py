"""What measures of several minutes have in common: rows are told as they come, and written when all are there."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from typing import Any

from conceptguard.cli.output import result, write_json


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """A command line with ``--json``. about: the module's docstring, as it stands."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="-", help="where the result goes; - is standard output")
    return parser


def write_rows(command: str, rows: Iterable[dict[str, Any]], where: str) -> None:
    """Each row on standard error as soon as it is measured, and the command's JSON object with all of them."""
    begin, found = time.perf_counter(), []
    for row in rows:
        found.append(row)
        print(row, file=sys.stderr, flush=True)
    write_json(result(command, found, time.perf_counter() - begin), where)
