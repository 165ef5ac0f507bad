"""The page of promises by host: the rows of ``python -m tools.promises`` as Markdown."""

from __future__ import annotations

from typing import Any

from tools.figure_tables import markdown

Result = dict[str, Any]
Row = dict[str, Any]
NAMES = {
    0: "it acts", 1: "no guard tax", 2: "no trace", 3: "fails closed", 4: "rows are separate", 6: "combines",
    7: "host's terms", 8: "files are safe", 9: "receipts are true",
}  # fmt: skip
MARKS = {"kept": "✓", "broken": "✗", "does not apply": "–", "refused": "refused"}


def promise_tables(results: list[Result]) -> str:
    """One table of all, then one for each host, and under it why something is not kept or not tried."""
    rows = [row for result in results for row in result["rows"]]
    hosts = list(dict.fromkeys(row["host"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["host"]), []).append(row)
    table = [[f"[`{m}`](methods/{m}.md)", *(_sum(cells.get((m, host), [])) for host in hosts)] for m in methods]
    parts = ["### All at once", markdown(["", *hosts], table)]
    for host in hosts:
        parts += [f"### {host}", _host(host, methods, cells)]
    return "\n\n".join(parts)


def _sum(rows: list[Row]) -> str:
    """A cell in a word: every promise kept, which are broken, or refused."""
    if not rows:
        return ""
    if rows[0]["promise"] is None:
        return "refused" if rows[0]["result"] == "refused" else "–"
    broken = [str(row["promise"]) for row in rows if row["result"] == "broken"]
    if broken:
        return f"✗ {', '.join(broken)}"
    return "✓" if any(row["promise"] == 0 and row["result"] == "kept" for row in rows) else "(✓)"


def _host(host: str, methods: list[str], cells: dict[tuple[str, str], list[Row]]) -> str:
    table, notes = [], []
    refused: dict[str, list[str]] = {}
    for method in methods:
        rows = cells.get((method, host), [])
        if not rows:
            continue
        if rows[0]["promise"] is None:
            refused.setdefault(rows[0]["why"].replace(method, "…"), []).append(f"`{method}`")
            continue
        by_promise = {row["promise"]: row for row in rows}
        table.append([f"`{method}`", *(_mark(by_promise.get(promise)) for promise in NAMES)])
        notes += [
            f"- `{method}`, {NAMES[row['promise']]}: **{row['result']}**, {_plain(row['why'])}"
            for row in rows if row["result"] == "broken"
        ]  # fmt: skip
    head = ["", *(f"{promise or ''} {name}".strip() for promise, name in NAMES.items())]
    parts = [markdown(head, table)] if table else []
    notes += [f"- {', '.join(named)}: {_plain(why)}" for why, named in refused.items()]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _mark(row: Row | None) -> str:
    return "" if row is None else MARKS[row["result"]] + (f" {row['checks']}" if row["result"] == "kept" else "")


def _plain(text: str) -> str:
    """An error's text as Markdown."""
    short = " ".join(text.split())[:400]
    return short.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")
