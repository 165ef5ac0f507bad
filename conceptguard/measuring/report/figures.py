"""The figures of a report card: shares of what was drawn, each with how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..shares import wilson
from .pairs import GROUPS, Pair

Row = dict[str, Any]
UNATTACKED = "unattacked"


def rows_of(
    pairs: Sequence[Pair], concepts: Sequence[str], attacks: Sequence[Mapping[str, Any]], policy: str, model: str
) -> list[Row]:
    """A row for each concept, with what has to do with none of them and the strongest attack in each."""
    others = [one for one in pairs if one.group == "others"]
    rows = []
    for concept in concepts:
        own = [one for one in pairs if one.concept == concept]
        row: Row = {"method": policy, "concept": concept, "concepts": 1, "model": model}
        for group in GROUPS:
            of_group = others if group == "others" else [one for one in own if one.group == group]
            row |= shares(group, of_group)
        row |= {"identical": _identical(others), "n": len(own) + len(others), **agreement([*own, *others])}
        rows.append(row | strongest(attacks, concept))
    return rows


def shares(group: str, pairs: Sequence[Pair]) -> Row:
    """What a judge recognises before and after, with Wilson's interval, and of how many."""
    found: Row = {f"n_{group}": len(pairs)}
    for when in ("before", "after"):
        hits = sum(getattr(one, f"shown_{when}") for one in pairs)
        low, high = wilson(hits, len(pairs))
        name = f"{group}_{when}"
        found |= {name: round(hits / len(pairs), 4) if pairs else None, f"{name}_low": low, f"{name}_high": high}
    return found | ({"refused": sum(bool(one.refused) for one in pairs)} if group == "erased" else {})


def agreement(pairs: Sequence[Pair]) -> Row:
    """The share of pairs of which a second judge says the same, before and after."""
    said = [one.agree for one in pairs if one.agree is not None]
    return {"agree": round(sum(said) / len(said), 4)} if said else {}


def strongest(attacks: Sequence[Mapping[str, Any]], concept: str) -> Row:
    """The attack that brings a concept back most often, and by how much more than no attack, or chance, does."""
    ran = [
        one for one in attacks if one["concept"] == concept and one["attack"] != UNATTACKED and one["asr"] is not None
    ]
    if not ran:
        return {}
    best = max(ran, key=lambda one: (one["asr"], one.get("gain") or 0.0))
    keys = ("attack", "asr", "low", "high", "asr_unattacked", "asr_random", "gain")
    return {**{key: best.get(key) for key in keys}, "attacks": len(ran), "asks": best["asks"], "best_of": best["n"]}


def rows_of_eval(rows: Sequence[Mapping[str, Any]], attacks: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of an earlier eval in the same columns; a concept's attack stands in the row about it alone."""
    found = []
    for given in rows:
        row = dict(given)
        for group in GROUPS:
            n = int(row[f"n_{group}"])
            for when in ("before", "after"):
                share = row.get(f"{group}_{when}")
                row[f"{group}_{when}_low"], row[f"{group}_{when}_high"] = wilson(round((share or 0.0) * n), n)
        found.append(row | strongest(attacks, str(row["concept"])))
    return found


def together(rows: Sequence[Mapping[str, Any]], group: str, when: str) -> tuple[int, int]:
    """(hits, of how many) over all concepts. What has to do with none of them is there once, and not once a row."""
    counted = rows[:1] if group == "others" else rows
    n = [int(row[f"n_{group}"]) for row in counted]
    return sum(round((row[f"{group}_{when}"] or 0.0) * k) for row, k in zip(counted, n)), sum(n)


def _identical(pairs: Sequence[Pair]) -> float | None:
    compared = [one.identical for one in pairs if one.identical is not None]
    return round(sum(compared) / len(compared), 4) if compared else None
