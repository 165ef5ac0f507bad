"""Small pieces of HTML. Whatever comes from elsewhere goes through ``text``."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

SIDE = 160  # pixels of a picture's longer side on the page


def text(words: Any) -> str:
    """Escaped."""
    return html.escape(str(words))


def ratio(value: float | None) -> str:
    """A share as per cent."""
    return "" if value is None else f"{100 * value:.0f} %"


def share(value: float, n: int) -> str:
    """A share of few, as hits of so many."""
    return f"{round(value * n)} of {n}"


def bar(value: float, low: float, high: float, kind: str = "") -> str:
    """A share and its interval, each in [0, 1], on a line from nothing to all."""
    told = f"{ratio(value)}, between {ratio(low)} and {ratio(high)}"
    return (
        f'<div class="bar {kind}" role="img" aria-label="{told}" title="{told}">'
        f'<i style="left:{100 * low:.1f}%;width:{100 * max(high - low, 0):.1f}%"></i>'
        f'<u style="left:{100 * value:.1f}%"></u></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of which each row is a block of its own on a phone. Cells are HTML."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f'<td data-head="{text(name)}">{cell}</td>' for name, cell in zip(head, row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def picture(pixels: Tensor, told: str, side: int = SIDE) -> str:
    """A picture inside the page, uint8 [3, h, w]; never enlarged."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    inside = base64.b64encode(data.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="data:image/png;base64,{inside}" alt="{text(told)}" {size}>'
