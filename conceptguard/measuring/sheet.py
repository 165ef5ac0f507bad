"""A contact sheet: the same prompts and seeds unguarded above guarded, by one guard or by several, in groups, with a
mark where nothing changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, GAP, ROW_LABEL = 28, 10, 92
INK, SOFT, PAPER, LINE, SAME = "#1d1f24", "#6a7079", "#ffffff", "#dfe2e7", "#1a7f4b"


@dataclass
class Column:
    """One prompt. pictures: uint8 [3, height, width], one a row; identical: rows that are the first to the last bit."""

    label: str
    pictures: Sequence[Tensor]
    identical: Collection[int] = ()


@dataclass
class Group:
    """Columns under one heading; ``note`` stands beside it, for figures."""

    title: str
    columns: Sequence[Column] = field(default_factory=list)
    note: str = ""


def contact_sheet(
    groups: Sequence[Group],
    title: str = "",
    subtitle: str = "",
    cell: int = 128,
    rows: Sequence[str] = ("unguarded", "guarded"),
) -> Image.Image:
    """One picture of all groups, ``cell`` pixels a thumbnail. Groups without columns are left out."""
    groups = [g for g in groups if g.columns]
    widest = max((len(g.columns) for g in groups), default=1)
    beside = max(ROW_LABEL, *(int(_font(14).getlength(name)) + 2 * GAP for name in rows))
    width = 2 * MARGIN + beside + widest * (cell + GAP) - GAP
    labels = [[_wrap(c.label, cell, _font(13)) for c in g.columns] for g in groups]
    heights = [34 + len(rows) * (cell + GAP) + 17 * max(map(len, lines)) + 30 for lines in labels]
    top = MARGIN + (40 if title else 0) + (26 if subtitle else 0)
    same = any(c.identical for g in groups for c in g.columns)
    sheet = Image.new("RGB", (width, top + sum(heights) + (MARGIN if same else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN - 4), title, INK, _font(26))
    if subtitle:
        draw.text((MARGIN, MARGIN + (34 if title else 0)), subtitle, SOFT, _font(15))
    for group, lines, height in zip(groups, labels, heights):
        _group(sheet, draw, group, lines, top, cell, rows, beside)
        top += height
    if same:
        _badge(draw, MARGIN, top - 8)
        draw.text((MARGIN + 26, top - 7), "guarded picture is bit-identical to the unguarded one", SOFT, _font(13))
    return sheet


def _group(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, group: Group, labels: list[list[str]], top: int, cell: int,
    rows: Sequence[str], beside: int,
) -> None:  # fmt: skip
    draw.line((MARGIN, top, sheet.width - MARGIN, top), LINE, 1)
    draw.text((MARGIN, top + 8), group.title, INK, _font(18))
    if group.note:
        length = draw.textlength(group.note, _font(14))
        draw.text((sheet.width - MARGIN - length, top + 11), group.note, SOFT, _font(14))
    top += 38
    for i, name in enumerate(rows):
        draw.text((MARGIN, top + i * (cell + GAP) + cell // 2 - 8), name, SOFT, _font(14))
    for i, (column, lines) in enumerate(zip(group.columns, labels)):
        left = MARGIN + beside + i * (cell + GAP)
        for j, pixels in enumerate(column.pictures):
            _picture(sheet, draw, pixels, left, top + j * (cell + GAP), cell)
            if j in column.identical:
                _badge(draw, left + cell - 24, top + j * (cell + GAP) + cell - 24)
        for k, line in enumerate(lines):
            length = draw.textlength(line, _font(13))
            draw.text((left + (cell - length) / 2, top + len(rows) * (cell + GAP) - 3 + 17 * k), line, INK, _font(13))


def _picture(sheet: Image.Image, draw: ImageDraw.ImageDraw, pixels: Tensor, left: int, top: int, cell: int) -> None:
    image = Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy())
    if image.size != (cell, cell):
        image = image.resize((cell, cell), Image.Resampling.LANCZOS)
    mask = Image.new("L", (4 * cell, 4 * cell), 0)  # drawn large and shrunk: Pillow's own corners are jagged
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * cell - 1, 4 * cell - 1), 36, fill=255)
    sheet.paste(image, (left, top), mask.resize((cell, cell), Image.Resampling.LANCZOS))
    draw.rounded_rectangle((left, top, left + cell - 1, top + cell - 1), 9, outline=LINE, width=1)


def _badge(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """A small "equals" sign."""
    draw.rounded_rectangle((left, top, left + 18, top + 18), 5, fill=SAME)
    draw.line((left + 5, top + 7, left + 13, top + 7), "white", 2)
    draw.line((left + 5, top + 11, left + 13, top + 11), "white", 2)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int = 3) -> list[str]:
    """Lines of at most ``width`` pixels; what does not fit into ``most`` of them ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_fit(word, width, font))
    if len(lines) > most:
        lines = [*lines[: most - 1], _fit(f"{lines[most - 1]}…", width, font)]
    return lines or [""]


def _fit(word: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(word) > 1 and font.getlength(word) > width:
        word = word.rstrip("…")[:-1] + "…"
    return word


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own font: the same sheet on every machine.
    return ImageFont.load_default(size)
