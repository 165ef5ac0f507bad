"""What `conceptguard redteam --attack all` on one concept costs with the default budget: processor seconds of each
attack with its control, whatever else the machine does meanwhile.

    OMP_NUM_THREADS=1 python -m tools.all_attacks --json FILE
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import conceptguard
from conceptguard.attacking.run import red_team
from conceptguard.cli.redteam import plan_of
from tools.rows import parser_of, write_rows

POLICY, CONCEPT = "demo", "cigarette"


def rows() -> Iterator[dict[str, Any]]:
    """One a row of the command, of which none is taken up from before."""
    pipe = conceptguard.load_model("emoji-sd")
    plan = plan_of("emoji-sd", POLICY, None, CONCEPT, None, "default", None, None, None, 0, True, (25, 3.5, 8))
    pipe.set_progress_bar_config(disable=True)
    begin = time.process_time()
    for one in red_team(pipe, plan):
        spent, begin = time.process_time() - begin, time.process_time()
        told = ("attack", "concept", "asks", "n", "asr", "asr_unattacked", "asr_random", "gain")
        yield {key: one.row.get(key) for key in told} | {"policy": POLICY, "cpu_seconds": round(spent, 1)}


if __name__ == "__main__":
    write_rows("all_attacks", rows(), parser_of(__doc__).parse_args().json)
