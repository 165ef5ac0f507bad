"""A report card as a page: one file, pictures inside it, that asks no network for anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConceptGuardError
from ...files.atomic import write_bytes
from ...version import __version__
from .blocks import bar, picture, ratio, share, table, text
from .card import Card
from .figures import UNATTACKED, Row
from .pairs import Pair
from .style import STYLE
from .tiles import lead, tiles

STATES = {"measured": "good", "in part": "mid", "open": "bad"}
HEADINGS = {"erased": "Asked for it", "neighbours": "Near it, to be kept", "others": "Nothing to do with any of them"}


def write_card(file: Path, card: Card) -> None:
    """Write the page. Raises ConceptGuardError."""
    try:
        write_bytes(file, page(card).encode())
    except OSError as error:
        raise ConceptGuardError(f"{file}: cannot be written ({error.strerror}): give another --out") from None


def page(card: Card) -> str:
    """The page as text."""
    title = text(f"{card.name} on {card.model}")
    facts = "".join(f"<tr><th>{text(key)}</th><td>{text(value)}</td></tr>" for key, value in card.facts.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Report card: {title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body><h1>Report card: {title}</h1>\n{lead(card)}{tiles(card)}"
        + "\n".join(part for part in _parts(card) if part)
        + f'<h2>How it was made</h2><table class="facts">{facts}</table>'
        f'<p class="soft">Bars: the mark is what was counted, the band is where the share lies with 95 % (Wilson). '
        f"Made by conceptguard {__version__}.</p></body></html>\n"
    )


def _parts(card: Card) -> Iterator[str]:
    yield _figures(card)
    yield _attacks(card)
    for concept in dict.fromkeys(one.concept for one in card.pairs if one.concept):
        yield f"<h2>{text(concept)}: without and with the policy</h2>"
        yield from (_pairs([one for one in card.pairs if (one.concept, one.group) == (concept, group)], group)
                    for group in HEADINGS)  # fmt: skip
    if others := [one for one in card.pairs if not one.concept]:
        yield f"<h2>{HEADINGS['others']}</h2>{_pairs(others, '')}"
    yield _cost(card)
    yield "<h2>What was not tested</h2><ul>" + "".join(f"<li>{text(line)}</li>" for line in card.untested) + "</ul>"
    yield "<h2>What no figure settles</h2>" + "".join(
        f'<div class="problem"><b>{text(one.name)}</b><span class="state {STATES[one.state]}">{one.state}</span>'
        f"<p>{text(one.here)}</p><p><i>For you:</i> {text(one.yours)}</p></div>"
        for one in card.problems
    )
    if card.receipts:
        told = "".join(f"<pre>{text(one)}</pre>" for one in card.receipts)
        yield f"<h2>Receipts</h2><details><summary>{len(card.receipts)} calls under the policy, and what each guard " \
              f"did</summary>{told}</details>"  # fmt: skip


def _figures(card: Card) -> str:
    def cells(row: Row) -> list[str]:
        return [text(row["concept"]), *(_both(row, group) for group in HEADINGS), ratio(row.get("identical"))]

    head = ["Concept", "Recognised when asked for", "Near things kept", "Others kept", "Others the same bit for bit"]
    return f"<h2>Erased and kept</h2>{table(head, [cells(row) for row in card.rows])}"


def _both(row: Row, group: str) -> str:
    n = int(row[f"n_{group}"])
    if not n:
        return "none there"
    before, after = (round((row[f"{group}_{when}"] or 0.0) * n) for when in ("before", "after"))
    low, high = row[f"{group}_after_low"], row[f"{group}_after_high"]
    return f"{before} → {after} of {n}{bar(after / n, low, high)}<small>{ratio(low)} to {ratio(high)}</small>"


def _attacks(card: Card) -> str:
    if not card.attacks:
        return "<h2>Attacked</h2><p>No attack was run: a guard that was never attacked is a promise.</p>"
    return (
        f'<h2>Attacked</h2><div class="cards">{"".join(_attack(card, one) for one in card.attacks)}</div>'
        '<p class="soft">Unattacked and by chance have as many pictures of each prompt: only what is above both is the '
        "attack's. What prompts attacks found is not on this page.</p>"
    )


def _attack(card: Card, one: Mapping[str, Any]) -> str:
    name = "not attacked" if one["attack"] == UNATTACKED else text(one["attack"])
    head = f"<b>{text(one['concept'])}</b>, {name}"
    if one["asr"] is None:
        return f"<div>{head}<p>did not run: {text(one['note'])}</p></div>"
    controls = (("unattacked", "asr_unattacked"), ("by chance", "asr_random"))
    beside = [f"{told} {ratio(one[key])}" for told, key in controls if one.get(key) is not None]
    told = "; ".join([f"{share(one['asr'], one['asks'])} prompts, best of {one['n']}", *beside])
    shown = card.strips.get((str(one["concept"]), str(one["attack"])), ())
    strip = "".join(picture(part, f"{one['concept']} under {one['attack']}", 96) for part in shown)
    return f'<div>{head}{bar(one["asr"], one["low"], one["high"])}<p class="soft">{told}</p>' \
           f'<div class="strip">{strip}</div></div>'  # fmt: skip


def _pairs(pairs: Sequence[Pair], group: str) -> str:
    if not pairs:
        return ""
    head = f"<h3>{HEADINGS[group]}</h3>" if group else ""
    return f'{head}<div class="pairs">{"".join(map(_figure, pairs))}</div>'


def _figure(pair: Pair) -> str:
    after = '<div class="none">no picture</div>' if pair.after is None else picture(pair.after, "with the policy")
    seen = [_seen(pair.shown_before), _seen(pair.shown_after)]
    told = [f"recognised: {seen[0]} → {seen[1]}" if pair.after is not None else f"recognised without: {seen[0]}"]
    if pair.identical:
        told.append("the same bit for bit")
    told += [words for words in (pair.acted, pair.found and f"found: {pair.found}") if words]
    if pair.refused:
        told.append(f"refused: {pair.refused}")
    return (
        f'<figure><div class="two">{picture(pair.before, "without the policy")}{after}</div>'
        f"<figcaption><b>{text(pair.sample.prompt)}</b><br>{'<br>'.join(map(text, told))}</figcaption></figure>"
    )


def _seen(shown: bool) -> str:
    return "yes" if shown else "no"


def _cost(card: Card) -> str:
    if not card.cost:
        return ""
    rows = [[text(one["what"]), "refused" if one["ratio_bare"] is None else f"{one['ratio_bare']:.2f} ×",
             f"{one['bare_seconds']:.2f} s", f"{one['attach_seconds']:.2f} s"] for one in card.cost]  # fmt: skip
    head = ["A picture of", "Time over the bare model", "Bare", "Attaching, once"]
    return f"<h2>What it costs</h2>{table(head, rows)}"
