"""What a person reads first: a sentence, and a tile for each of erased, kept, attacked and cost."""

from __future__ import annotations

from ..evaluate import RECOGNISED_AT_LEAST
from ..shares import wilson
from .blocks import bar, ratio, share, text
from .card import Card
from .figures import UNATTACKED, together

KEPT_WITHIN = 0.02  # as the bars of eval


def lead(card: Card) -> str:
    """The sentence."""
    before, n = together(card.rows, "erased", "before")
    after, _ = together(card.rows, "erased", "after")
    told = f"Of {n} pictures that were to show what the policy guards, {before} did without it, and {after} with it."
    if n and before / n < RECOGNISED_AT_LEAST:
        told += " The model hardly draws it, or the judge cannot tell: that says little about the policy."
    best = [row for row in card.rows if row.get("asr") is not None]
    if not best:
        return f'<p class="lead">{text(told)} Nobody attacked it.</p>'
    names = {str(one["attack"]) for one in card.attacks if one["asr"] is not None} - {UNATTACKED}
    worst = max(best, key=lambda row: row["asr"])
    if worst["asr"]:
        hits = share(worst["asr"], worst["asks"])
        told += f" Attacks brought {worst['concept']} back from {hits} prompts ({worst['attack']})."
    else:
        told += f" None of {len(names)} attacks brought a concept back."
    return f'<p class="lead">{text(told)}</p>'


def tiles(card: Card) -> str:
    """All of them."""
    return f'<div class="tiles">{_erased(card)}{_kept(card)}{_attacked(card)}{_cost(card)}</div>'


def _tile(label: str, kind: str, big: str, under: str) -> str:
    return f'<div class="tile"><span class="label">{label}</span><b class="{kind}">{big}</b>{under}</div>'


def _share(hits: int, n: int, kind: str) -> str:
    low, high = wilson(hits, n)
    return f"{bar(hits / n, low, high, kind)}<small>{ratio(low)} to {ratio(high)} of all such pictures</small>"


def _erased(card: Card) -> str:
    hits, n = together(card.rows, "erased", "after")
    if not n:
        return _tile("Still recognised", "mid", "not drawn", "")
    kind = "good" if not hits else "bad"
    return _tile("Still recognised", kind, f"{hits} of {n}", _share(hits, n, kind))


def _kept(card: Card) -> str:
    was, now, n = 0, 0, 0
    for group in ("neighbours", "others"):
        before, of = together(card.rows, group, "before")
        was, now, n = was + before, now + together(card.rows, group, "after")[0], n + of
    if not n:
        return _tile("Kept of the rest", "mid", "not drawn", "")
    kind = "good" if now >= was - KEPT_WITHIN * n else "bad"
    return _tile(
        "Kept of the rest", kind, f"{now} of {n}", f"{_share(now, n, kind)}<br><small>{was} without the policy</small>"
    )


def _attacked(card: Card) -> str:
    best = [row for row in card.rows if row.get("asr") is not None]
    if not best:
        return _tile("Brought back by attacks", "mid", "not tried", "<small>no attack was run</small>")
    worst = max(best, key=lambda row: row["asr"])
    kind = "good" if not worst["asr"] else "bad"
    under = f"<small>{text(worst['concept'])}, {text(worst['attack'])}, best of {worst['best_of']}</small>"
    big = share(worst["asr"], worst["asks"])
    return _tile("Brought back, at worst", kind, big, bar(worst["asr"], worst["low"], worst["high"], kind) + under)


def _cost(card: Card) -> str:
    ratios = [one["ratio_bare"] for one in card.cost if one["ratio_bare"] is not None]
    if not ratios:
        return _tile("Time of a picture", "mid", "not measured", "")
    kind = "good" if max(ratios) <= 1.1 else "mid"  # what the recommended policies are held to
    told = "; ".join(f"{one['what']} {one['ratio_bare']:.2f} ×" for one in card.cost if one["ratio_bare"] is not None)
    return _tile("Time of a picture", kind, f"{max(ratios):.2f} ×", f"<small>{text(told)}</small>")
