"""How reports of attacks on language models are shown: rows of their JSON -> a Markdown table."""

from __future__ import annotations

from tools.figure_tables import Result, Row, markdown


def language_attacks_table(results: list[Result]) -> str:
    """What attacks bring back of what a language model is to forget, under each policy and without."""
    rows = [row for result in results for row in result["rows"]]
    methods = dict.fromkeys(row["method"] for row in rows)
    found = {(row["method"], row["attack"]): row for row in rows}
    table = []
    for attack in dict.fromkeys(row["attack"] for row in rows):
        cells = [attack if attack == "unattacked" else f"`{attack}`"]
        for method in methods:
            cells.append(_attacked(found.get((method, attack))))
        one = next(row for row in rows if row["attack"] == attack)
        table.append([*cells, "" if one["never"] is None else f"{one['never']:.2f}"])
    lost = [
        f"{row['method']} takes {row['suppressed']:.2f} of {row['n_suppressed']} facts about others"
        for row in rows if row.get("suppressed") is not None
    ]  # fmt: skip
    told = (
        "The share of facts to be forgotten that are brought back by any of N candidates; in brackets its 95 % "
        "interval, and chance: the same attempts about somebody else, or a change of weights of the same size. The "
        f"last column is the attack on a model that never knew. {rows[0]['asks']} facts, N = {rows[0]['n']}."
    )
    if lost:
        told += f" What the chains of `sleek` bring of others without a policy and not with it: {'; '.join(lost)}."
    names = ["no policy" if method == "none" else f"`{method}`" for method in methods]
    return f"{told}\n\n{markdown(['', *names, 'never knew'], table)}"


def every_fact_table(results: list[Result]) -> str:
    """What attacks bring back under one policy, beside the controls."""
    table = [
        [row["attack"] if row["attack"] == "unattacked" else f"`{row['attack']}`", str(row["asks"]), str(row["n"]),
         f"{row['asr']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
         *("" if row[key] is None else f"{row[key]:.3f}" for key in ("asr_random", "never", "bare"))]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    head = ["", "facts", "N", "brought back", "chance", "never knew", "no policy"]
    return f"Under `{results[0]['rows'][0]['method']}`:\n\n{markdown(head, table)}"


def _attacked(row: Row | None) -> str:
    if row is None or row["asr"] is None:
        return ""
    chance = f", {row['asr_random']:.2f}" if row.get("asr_random") is not None else ""
    return f"{row['asr']:.2f} ({row['low']:.2f} to {row['high']:.2f}{chance})"


def deletion_table(results: list[Result]) -> str:
    """What candidates hold of what was deleted, by where they were read, and what is still answered."""
    rows = results[0]["rows"]
    roads = list(rows[0]["by"])

    def line(name: str, row: Row, found: str, by: list[str], when: str) -> list[str]:
        return [name, found, *by, *(f"{row[f'{group}_{when}']:.2f}" for group in ("erased", "neighbours", "others"))]

    table = [line("as it is", rows[0], f"{rows[0]['bare']:.2f}", [""] * len(roads), "before")]
    table += [
        line(row["method"], row, _attacked(row), [f"{row['by'][road]:.2f}" for road in roads], "after") for row in rows
    ]
    asks, n, never = (rows[0][key] for key in ("asks", "n", "never"))
    told = (
        f"The share of {asks} facts that are among {n} candidates of `extraction`, in brackets its 95 % interval and "
        "chance, the same attempts about somebody else; then by where a candidate was read. A model that never knew: "
        f"{never:.2f}. Then the share of questions that are answered, about those forgotten, others and places."
    )
    head = ["", "extracted", *roads, "about forgotten authors", "about others", "about places"]
    return f"{told}\n\n{markdown(head, table)}"


def worst_case_table(results: list[Result]) -> str:
    """How much of a set is left after it was unlearned, by how the set was chosen."""
    table = [
        [row["attack"], f"{row['asr']:.2f} ({row['low']:.2f} to {row['high']:.2f})", f"{row['others']:.2f}"]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    return markdown(["set of five", "facts about it still told", "others"], table)
