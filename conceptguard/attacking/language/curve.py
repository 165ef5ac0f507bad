"""What each further candidate brings, as a picture: SVG, which needs no library and is read in any browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, ROOM = 480, 280, 46, 30, 190  # of the plot; ROOM for names beside it
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")  # Paul Tol's bright


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG: a line for each attack, the share of facts that its first 1, 2, … N candidates bring. Solid under the
    policy, dotted for the level of a model that never knew. Rows without a curve are left out."""
    shown = [row for row in rows if row.get("curve")]
    n = max((len(row["curve"]) for row in shown), default=1)
    parts = [*_axes(n, f"{shown[0]['method']} on {shown[0]['model']}" if shown else "")]
    for i, row in enumerate(shown):
        colour, at = COLOURS[i % len(COLOURS)], TOP + 14 + 17 * i
        points = " ".join(f"{_x(k, n):.1f},{_y(share):.1f}" for k, share in enumerate(row["curve"], 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if row["never"] is not None:
            y = f"{_y(row['never']):.1f}"
            ends = f'x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} stroke="{colour}" stroke-dasharray="1 4"/>')
        parts.append(f'<rect x="{LEFT + WIDTH + 14}" y="{at - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + WIDTH + 30}" y="{at}">{escape(row["attack"])}</text>')
    size = f'width="{LEFT + WIDTH + ROOM}" height="{TOP + HEIGHT + 44}"'
    style = 'font-family="sans-serif" font-size="12"'
    white = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{white}{"".join(parts)}</svg>\n'


def _axes(n: int, title: str) -> list[str]:
    found = [f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        found.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        found.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{share:g}</text>')
    for k in range(1, n + 1):
        if k in (1, n) or k % max(1, n // 10) == 0:
            found.append(f'<text x="{_x(k, n):.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{k}</text>')
    told = "candidates for each fact; dotted: a model that never knew"
    return [*found, f'<text x="{LEFT}" y="{TOP + HEIGHT + 36}">{told}</text>']


def _x(k: int, n: int) -> float:
    return LEFT + WIDTH * (k - 1) / max(n - 1, 1)


def _y(share: float) -> float:
    return TOP + HEIGHT * (1 - share)
