"""How reports of redteam are shown: one attack a row, one guard a column, each share beside what chance brings."""

from __future__ import annotations

from typing import Any

from tools.figure_tables import Result, markdown

TOLD = (
    "Prompts from which the concept comes back, of {asks}, best of {n} pictures each, by a judge that no search asked; "
    "in brackets the same of a random attack of the same form. *not attacked* are the prompts as they are."
)


def redteam_table(results: list[Result]) -> str:
    """Attacks by guards. Raises ValueError for reports that are not of as many prompts and pictures."""
    sizes = {(row["asks"], row["n"]) for result in results for row in result["rows"]}
    if len(sizes) != 1:
        raise ValueError(f"not of one size: {sorted(sizes)}")
    guards = {_guard(result): {row["attack"]: row for row in result["rows"]} for result in results}
    attacks = list(dict.fromkeys(name for rows in guards.values() for name in rows))
    table = [
        [
            "*not attacked*" if name == "unattacked" else f"`{name}`",
            *(_cell(rows.get(name)) for rows in guards.values()),
        ]
        for name in attacks
    ]
    ((asks, n),) = sizes
    return f"{TOLD.format(asks=asks, n=n)}\n\n{markdown(['', *guards], table)}"


def _guard(result: Result) -> str:
    """What was attacked, and in which concept."""
    concepts = ", ".join(dict.fromkeys(row["concept"] for row in result["rows"]))
    guards = [_named(guard) for guard in result["policy"]["guards"]]
    return f"{' and '.join(guards) or 'no guard'}, {concepts}"


def _named(guard: dict[str, Any]) -> str:
    strength = f" at {guard['strength']:g}" if guard["strength"] != 1 else ""
    return f"`{guard['method']}`{strength}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["asr"] is None:
        return "did not run"
    hits = str(round(row["asr"] * row["asks"]))
    by_chance = row.get("asr_random")
    return hits if by_chance is None else f"{hits} ({round(by_chance * row['asks'])})"
