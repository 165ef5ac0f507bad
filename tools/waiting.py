"""What making takes from a loaded model to the written artifact, beside another build of conceptguard.

Every figure is of a process of its own, this build's and the other's in turn, both with their own settings. What an
encoder says of ordinary captions is kept in the cache between processes: `first` is with an empty one, `again` with
what the first left there. Few or many things are to stay: three words, or all of the suite's in eight wordings, as what
ships keeps them.

    python -m tools.waiting --peer OTHER/.venv/bin/python --json FILE
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

CONCEPT = {"name": "pistol", "prompts": ["pistol", "gun"]}
FEW = ["guitar", "sword", "flower"]
METHODS = ("uce", "spm")
CHILD = "--of-a-build"  # how this file is run by either


def main() -> None:
    from .rows import parser_of, write_rows

    parser = parser_of(__doc__)
    parser.add_argument("--peer", required=True, help="the Python of an environment with another build")
    parser.add_argument("--repeats", type=int, default=1, help="of each, in turn; medians count")
    asked = parser.parse_args()
    write_rows("waiting", rows(asked.peer, asked.repeats), asked.json)


def rows(peer: str, repeats: int) -> Iterator[dict[str, Any]]:
    """One for each method and number of kept things: seconds of one thread's processor time, and ours over theirs."""
    from conceptguard_registry.build.artifacts import jobs

    from conceptguard.measuring.suite import load_suite

    ships = next(job for job in jobs(load_suite("emoji-sd")) if job.label == "uce/pistol")
    many = {"preserve": list(ships.preserve), "templates": ships.options["templates"]}
    for method in METHODS:
        for options in ({"preserve": FEW}, many):
            seen: dict[str, list[list[float]]] = {sys.executable: [], peer: []}
            for _ in range(repeats):
                for python, found in seen.items():
                    found.append(once(python, method, options))
            row: dict[str, Any] = {"method": method, "kept": len(options["preserve"])}
            for when, ours, theirs in zip(("first", "again"), *(map(median, zip(*found)) for found in seen.values())):
                row |= {f"{when}_seconds": round(ours, 3), f"{when}_seconds_peer": round(theirs, 3)}
                row[f"{when}_ratio_peer"] = round(ours / theirs, 4)
            yield row


def once(python: str, method: str, options: dict[str, Any]) -> list[float]:
    """Two processes of a build, one after the other with one cache. CalledProcessError where one fails."""
    with TemporaryDirectory(prefix="conceptguard-waiting-") as folder:
        own = {"CONCEPTGUARD_CACHE": f"{folder}/cache", "CONCEPTGUARD_HOME": f"{folder}/home", "PYTHONPATH": ""}
        asked = [python, str(Path(__file__).resolve()), CHILD, method, json.dumps(options)]
        said = [subprocess.check_output(asked, cwd=folder, env={**os.environ, **own}) for _ in ("first", "again")]
    return [float(json.loads(one.split()[-1])) for one in said]


def made(method: str, options: dict[str, Any]) -> float:
    """Seconds of processor time, in a process of any build: public names alone. Written into the working folder."""
    import torch

    import conceptguard
    from conceptguard import plugins

    torch.set_num_threads(1)
    host = plugins.host_for(conceptguard.load_model("emoji-sd"))
    begin = time.process_time()
    plugins.method(method).make(host, CONCEPT, Path("made"), progress=False, **options)
    return time.process_time() - begin


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        warnings.simplefilter("ignore")
        print(json.dumps(made(sys.argv[2], json.loads(sys.argv[3]))))
    else:
        main()
