"""The page of promises by host: the rows of ``python -m tools.promises`` as Markdown."""

from __future__ import annotations

import re
from typing import Any

from tools.figure_tables import markdown

Result = dict[str, Any]
Row = dict[str, Any]
NAMES = {
    0: "it acts", 1: "no guard tax", 2: "no trace", 3: "fails closed", 4: "rows are separate", 6: "combines",
    7: "host's terms", 8: "files are safe", 9: "receipts are true",
}  # fmt: skip
TERMS = ("caches", "compiled", "offloaded", "guidance")  # of the host, column by column
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
        parts += [f"### {host}", _releases(cells, host) + _host(host, methods, cells)]
        if any("term" in row for (_, its), rows in cells.items() if its == host for row in rows):
            parts.append(_host(host, methods, cells, terms=True))
    return "\n\n".join(parts)


def _releases(cells: dict[tuple[str, str], list[Row]], host: str) -> str:
    """Of which libraries, where they are not those of every other table."""
    told = {row.get("releases") for (_, its), rows in cells.items() if its == host for row in rows}
    return "".join(f"{releases}, on the embedded models.\n\n" for releases in told if releases)


def _sum(rows: list[Row]) -> str:
    """A cell in a word: every promise kept, which are broken, or refused."""
    if not rows:
        return ""
    if rows[0]["promise"] is None:
        return "refused" if rows[0]["result"] == "refused" else "–"
    broken = dict.fromkeys(str(row["promise"]) for row in rows if row["result"] == "broken")
    if broken:
        return f"✗ {', '.join(broken)}"
    return "✓" if any(row["promise"] == 0 and row["result"] == "kept" for row in rows) else "(✓)"


def _host(host: str, methods: list[str], cells: dict[tuple[str, str], list[Row]], terms: bool = False) -> str:
    """The table of one host, and under it whatever is not kept, by its reason. terms: of its own terms, one by one."""
    columns: tuple[Any, ...] = TERMS if terms else tuple(NAMES)
    table: list[list[str]] = []
    reasons: dict[tuple[str, str, str], list[str]] = {}  # (result, why, of which promises) -> the methods
    for method in methods:
        every = cells.get((method, host), [])
        rows = [row for row in every if ("term" in row) == terms]
        by_promise = {row["term"] if terms else row["promise"]: row for row in rows}
        if rows and None not in by_promise:
            table.append([f"`{method}`", *(_mark(by_promise.get(column)) for column in columns)])
        own: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            for why in _whys(row, method) if row["result"] != "kept" else ():
                own.setdefault((row["result"], why), []).append(row["term"] if terms else _named(row["promise"]))
        for (result, why), of in own.items():
            reasons.setdefault((result, why, ", ".join(filter(None, of))), []).append(f"`{method}`")
    head = ["", *(columns if terms else map(_named, NAMES))]
    told = sorted(reasons.items(), key=lambda one: ("broken", "refused", "does not apply").index(one[0][0]))
    notes = [
        f"- **{': '.join(filter(None, [result, of]))}** ({', '.join(named)}): {_plain(why)}"
        for (result, why, of), named in told
    ]
    return "\n\n".join([*([markdown(head, table)] if table else []), *(["\n".join(notes)] if notes else [])])


def _named(promise: int | None) -> str:
    return "" if promise is None else f"{promise or ''} {NAMES[promise]}".strip()


def _whys(row: Row, method: str) -> list[str]:
    """The reasons of a row, without the names of checks and of the method, each once."""
    found = row["why"].split("; ") if row["promise"] is not None and row["result"] != "broken" else [row["why"]]
    plain = [re.sub(r"^[a-z_0-9]+: ", "", why) if row["result"] == "does not apply" else why for why in found]
    named = re.compile(rf"(?<='){method}\b|(?<=: ){method}(?= would)")
    return list(dict.fromkeys(named.sub("…", why) for why in plain))


def _mark(row: Row | None) -> str:
    return "" if row is None else MARKS[row["result"]] + (f" {row['checks']}" if row["result"] == "kept" else "")


def _plain(text: str) -> str:
    """An error's text as Markdown."""
    short = " ".join(text.split())[:400]
    return short.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")
