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


def policy_table(results: list[Result]) -> str:
    """Attacks on one policy, a row each, over all concepts that it was tried on. Raises ValueError for different N."""
    rows = list({(row["attack"], row["concept"]): row for result in results for row in result["rows"]}.values())
    sizes = {row["n"] for row in rows}
    if len(sizes) != 1:
        raise ValueError(f"not of one size: {sorted(sizes)}")
    table = []
    for name in dict.fromkeys(row["attack"] for row in rows):
        own = [row for row in rows if row["attack"] == name and row["asr"] is not None]
        back = {row["concept"]: round(row["asr"] * row["asks"]) for row in own}
        chance = [row for row in own if row.get("asr_random") is not None]
        table.append([
            "*not attacked*" if name == "unattacked" else f"`{name}`",
            str(len(back)), str(sum(row["asks"] for row in own)), str(sum(back.values())),
            str(sum(round(row["asr_random"] * row["asks"]) for row in chance)) if chance else "",
            str(sum(round(row["bare"] * row["asks"]) for row in own)),
            ", ".join(concept for concept, n in back.items() if n),
        ])  # fmt: skip
    head = ["", "concepts", "prompts", "brought back", "by chance", "without the policy", "of which"]
    told = (
        f"Prompts from which a concept comes back, best of {sizes.pop()} pictures each, by a judge that no search "
        "asked; *by chance*: by a random attack of the same form; *without the policy*: by the prompts as they are."
    )
    return f"{told}\n\n{markdown(head, table)}"


def never_seen_table(results: list[Result]) -> str:
    """Attacks by what the model knows: what it never saw and nobody guards, what it saw under a guard."""
    rows = [row for result in results for row in result["rows"]]
    kinds = {
        method: [row for row in rows if row["method"] == method] for method in dict.fromkeys(r["method"] for r in rows)
    }
    heads = ["", *("never seen, no guard" if method == "none" else f"seen, under `{method}`" for method in kinds)]
    table = []
    for name in dict.fromkeys(row["attack"] for row in rows):
        cells = ["*not attacked*" if name == "unattacked" else f"`{name}`"]
        for own in kinds.values():
            cells.append(_sum([row for row in own if row["attack"] == name]))
        table.append(cells)
    told = (
        f"Prompts from which the thing comes back, best of {rows[0]['n']} pictures each; in brackets the same of a "
        f"random attack of the same form. The judge names {rows[0]['judge_right']:.0%} of renderings right that it was "
        f"not made of, and says of {rows[0]['judge_none']:.0%} of other emoji that they are none of its things."
    )
    return f"{told}\n\n{markdown(heads, table)}"


def _sum(rows: list[dict[str, Any]]) -> str:
    """Hits of asks, over several concepts."""
    hits, asks = round(sum(row["asr"] * row["asks"] for row in rows)), sum(row["asks"] for row in rows)
    by_chance = [row["asr_random"] * row["asks"] for row in rows if row.get("asr_random") is not None]
    return f"{hits} of {asks}" + (f" ({round(sum(by_chance))})" if by_chance else "")


def kept_table(results: list[Result]) -> str:
    """What a policy takes from prompts it has nothing against, and its time."""
    rows = [row for result in results for row in result["rows"]]
    groups = [
        [row["group"], *(str(row[key]) for key in ("n", "shown_before", "shown_after", "lost", "blackened")),
         f"{row['identical']:.2f}", ", ".join(dict.fromkeys(row["of"]))]
        for row in rows if row["group"] != "time"
    ]  # fmt: skip
    head = ["", "prompts", "shown without", "shown with", "lost", "blackened", "identical", "blackened were"]
    times = "; ".join(f"{row['what']} {row['ratio_bare']:.2f} ×" for row in rows if row["group"] == "time")
    told = "Prompts of which a judge sees what they ask for, without the policy and with it."
    costs = f"The processor's time for a picture, over that of the bare model: {times}."
    return f"{told}\n\n{markdown(head, groups)}\n\n{costs}"


def steps_table(results: list[Result]) -> str:
    """What a step of an attack costs under guards."""
    rows = [row for result in results for row in result["rows"]]
    table = [
        [f"`{row['method']}`", row["model"], f"{row['ms']:,.0f}", f"{row['ms_bare']:,.0f}", f"{row['ratio_bare']:.2f}"]
        for row in rows
    ]  # fmt: skip
    return markdown(["", "size", "ms a step", "without the guard", "ratio"], table)


def work_table(results: list[Result]) -> str:
    """What each attack on one concept takes, and all of them."""
    rows = [row for result in results for row in result["rows"]]
    one, whole = rows[0], sum(row["cpu_seconds"] for row in rows)
    told = (
        f"`{one['policy']}`, {one['concept']}: {one['asks']} prompts, best of {one['n']} pictures each. In all "
        f"{whole / 60:.0f} minutes of one core, {whole / 120:.0f} on two where both are busy."
    )
    table = [
        [f"`{row['attack']}`" if row["attack"] != "unattacked" else "*not attacked*", f"{row['cpu_seconds']:,.0f}",
         *("" if row[key] is None else str(round(row[key] * one["asks"])) for key in ("asr", "asr_random"))]
        for row in rows
    ]  # fmt: skip
    return f"{told}\n\n{markdown(['', 'seconds', 'brought back', 'by chance'], table)}"


def scores_table(results: list[Result]) -> str:
    """What probes say of their concept and of all else, and the threshold between."""
    rows = [row for result in results for row in result["rows"]]
    table = [
        [row["concept"], str(row["own"]), ", ".join(f"{x:.4f}" for x in row["lowest_own"][:2]), str(row["kept"]),
         f"{row['highest_kept'][0]:.4f} ({row['of'][0]})", str(row["given_up"]), f"{row['threshold']:.3f}"]
        for row in rows
    ]  # fmt: skip
    return markdown(["", "pictures", "lowest scores", "of all else", "highest score", "given up", "threshold"], table)


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
