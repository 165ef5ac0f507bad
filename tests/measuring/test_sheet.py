"""The contact sheet: everything asked for is on it, at its place, and nothing runs over."""

from __future__ import annotations

import torch
from PIL import Image

from conceptguard.measuring.cards import _spread
from conceptguard.measuring.sheet import GAP, MARGIN, ROW_LABEL, SAME, Column, Group, _font, _wrap, contact_sheet

RED, BLUE = torch.tensor([200, 0, 0]), torch.tensor([0, 0, 200])


def plain(colour: torch.Tensor, size: int = 128) -> torch.Tensor:
    return colour.to(torch.uint8)[:, None, None].expand(3, size, size)


def colours(sheet: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in sheet.getcolors(1 << 24) or []}  # type: ignore[misc]


def test_before_stands_above_after() -> None:
    sheet = contact_sheet([Group("erased", [Column("a dog", [plain(RED), plain(BLUE)])])])
    x = MARGIN + ROW_LABEL + 64
    column = [sheet.getpixel((x, y)) for y in range(sheet.height)]
    first_red, first_blue = column.index((200, 0, 0)), column.index((0, 0, 200))
    assert first_blue - first_red == 128 + GAP
    assert column.count((200, 0, 0)) > 120 and column.count((0, 0, 200)) > 120


def test_a_mark_only_where_nothing_changed() -> None:
    mark = tuple(int(SAME[i : i + 2], 16) for i in (1, 3, 5))
    changed = contact_sheet([Group("g", [Column("a", [plain(RED), plain(BLUE)])])])
    same = contact_sheet([Group("g", [Column("a", [plain(RED), plain(RED)], [1])])])
    assert mark in colours(same) and mark not in colours(changed)
    assert same.height > changed.height  # room for the legend


def test_several_guards_stand_below_one_another() -> None:
    three = [plain(RED), plain(BLUE), plain(RED)]
    sheet = contact_sheet([Group("g", [Column("a", three, [2])])], rows=("unguarded", "one", "one with a long name"))
    label = sheet.width - contact_sheet([Group("g", [Column("a", three[:2])])]).width
    assert label > 0  # the longest name has room
    x = MARGIN + ROW_LABEL + label + 64
    column = [sheet.getpixel((x, y)) for y in range(sheet.height)]
    first = column.index((200, 0, 0))
    assert [column[first + i * (128 + GAP) + 40] for i in range(3)] == [(200, 0, 0), (0, 0, 200), (200, 0, 0)]
    mark = tuple(int(SAME[i : i + 2], 16) for i in (1, 3, 5))
    marked = [y for y in range(sheet.height) if sheet.getpixel((x + 44, y)) == mark]
    assert marked and min(marked) > first + 2 * (128 + GAP)


def test_width_follows_the_widest_group_and_empty_groups_take_no_room() -> None:
    columns = [Column(str(i), [plain(RED), plain(BLUE)]) for i in range(5)]
    one = contact_sheet([Group("g", columns)])
    assert one.size == contact_sheet([Group("g", columns), Group("empty")]).size
    both = contact_sheet([Group("g", columns), Group("h", columns[:2])], title="t", subtitle="s")
    assert both.width == one.width == 2 * MARGIN + ROW_LABEL + 5 * (128 + GAP) - GAP
    assert contact_sheet([]).width > 0


def test_pictures_of_any_size_fit_their_cell() -> None:
    sheet = contact_sheet([Group("g", [Column("a", [plain(RED, 512), plain(BLUE, 64)])])], cell=96)
    assert {(200, 0, 0), (0, 0, 200)} <= colours(sheet)


def test_labels_are_wrapped_and_cut() -> None:
    font = _font(13)
    for text in ("a dog", "x" * 300, "please draw " * 30, ""):
        lines = _wrap(text, 128, font)
        assert 1 <= len(lines) <= 3 and all(font.getlength(line) <= 128 for line in lines)
    assert _wrap("please draw " * 30, 128, font)[-1].endswith("…")


def test_all_columns_are_filled_where_there_are_enough_prompts() -> None:
    for count in (3, 8, 12, 17, 40):
        assert len(_spread(range(count), 8)) == min(count, 8)
    assert _spread(range(40), 8) == [0, 5, 10, 15, 20, 25, 30, 35]
