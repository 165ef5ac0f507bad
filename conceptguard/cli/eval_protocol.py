"""``conceptguard eval --protocol``: published prompt sets under the protocol that their figures were made with, and
what every table of ``eval`` says of how it was made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..measuring.judges import Judges
    from ..measuring.suite import Suite
    from ..policy import Policy

MORE = {"about", "build", "labels", "scheduler", "size"}
COLUMNS = ["method", "set", "n", "pictures", "bare", "pre_asr", "asr", "count", "low", "high", "seconds"]


def list_protocols(json: str | None) -> None:
    """The published protocols and what they pin."""
    from ..measuring.protocols import protocols
    from .output import report

    begin = time.perf_counter()
    rows = [
        {"protocol": name, "detector": one.detector, "threshold": one.threshold, "steps": one.steps,
         "guidance": one.guidance, "pictures": one.pictures, "sets": ", ".join(one.sets), "digest": one.digest,
         "not_known": ", ".join(one.unknown), **one.model_dump(include=MORE)}
        for name, one in protocols().items()
    ]  # fmt: skip
    columns = ["protocol", "detector", "threshold", "steps", "guidance", "sets", "not_known"]
    report("eval", rows, time.perf_counter() - begin, json, columns=columns)


def eval_protocol(
    model: str, protocol: str, prompts: Sequence[str], policies: Sequence[Policy], column: str, first: int, batch: int,
    beside: Path | None, device: str | None, dtype: str, variant: str | None, config: str | None, json: str | None,
) -> None:  # fmt: skip
    """Draw sets of prompts under a protocol, without and with each policy, and print what its detector counts."""
    from ..measuring.protocols import load_protocol
    from ..measuring.under_protocol import asked, check_runnable, pictures_of, run
    from .loading import drawing
    from .output import report
    from .progress import estimated

    begin = time.perf_counter()
    rules = load_protocol(protocol)
    check_runnable(rules)
    sets = [asked(rules, given, column=column, first=first) for given in prompts]
    for one in sets:
        if one.pinned.known and not one.part and not one.known:
            told = f"the prompts of {one.prompts.source} are none of the published copies of '{one.name}' that we know"
            print(f"conceptguard: {told}: compare its row with rows on the same file alone", file=sys.stderr)
    pipe = drawing(model, device, dtype, variant=variant, config=config)
    total = sum(pictures_of(one, rules.pictures) for one in sets) * (1 + len(policies))
    with estimated("pictures", total, "--first N") as tick:
        rows = run(pipe, rules, sets, policies, model, batch, tick)
    rows = with_earlier(rows, beside)
    seconds = time.perf_counter() - begin
    pinned = rules.model_dump(mode="json")
    report("eval", rows, seconds, json, str(pipe.device), columns=COLUMNS, protocol=rows[0]["protocol"], pinned=pinned)
    if json != "-":
        print(
            f"protocol: {told_of(rows)}; bare is the same figure without a guard, low and high its 95 % interval with"
        )


def with_earlier(rows: Sequence[Mapping[str, Any]], beside: Path | None) -> list[dict[str, Any]]:
    """The rows after those of an earlier report, if all may stand in one table. Raises PolicyError where not."""
    from ..measuring.protocols import earlier_rows, one_table

    return one_table([*(earlier_rows(beside) if beside else []), *rows])


def told_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The protocol that rows were made under, in words and as the digest of what it pins."""
    return f"{rows[0]['protocol']} [{rows[0]['protocol_digest']}]"


def of_suite(rows: Sequence[Mapping[str, Any]], suite: Suite, judges: Judges, steps: int, guidance: float,
             beside: Path | None) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of a suite, which say how they were made and how the first judge errs, after those of an earlier report."""
    from ..measuring import protocols
    from ..measuring.own_judges import errors_about

    made = protocols.of_suite(suite.base, judges.names, steps, guidance)
    told = [{**row, **errors_about(judges.first, str(row["concept"]).split(", "))} for row in rows]
    return with_earlier(protocols.stamped(told, *made), beside)
