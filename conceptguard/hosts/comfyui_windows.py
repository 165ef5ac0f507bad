"""Prompts that are longer than a text encoder's window, for guards that read them token by token.

ComfyUI encodes a long prompt window by window and puts the windows one behind the other. A guard is shown each window
as a row of its own, with the words in it, and what it makes of them goes back to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..generation import Attend, Conditions, Encoded, Skips
from ..receipt import Act
from .comfyui_conditions import Condition


@dataclass
class Windowed(Conditions):
    """Conditions with a row for every window: first the first windows of all the call's rows, then the others.

    whole: the call's own conditions; origin: for each window its row there; places: which window of that row it is
    """

    whole: Conditions = field(kw_only=True)
    origin: list[int] = field(kw_only=True)
    places: list[int] = field(kw_only=True)

    def __post_init__(self) -> None:
        self._given = self.embeds

    def away_from(self) -> dict[int, int | None]:
        """The windows of a row are taken away from the first window of the other row."""
        found = self.whole.away_from()
        return {row: found[self.origin[row]] for row in self.towards}

    def move(self, rows: list[int], by: Tensor) -> None:
        """The windows of a row move the same latents."""
        for row, part in zip(rows, by):
            self.whole.move([self.origin[row]], part[None])

    def change_skips(self, rows: Sequence[int], changes: Mapping[int, Callable[[int, Tensor], Tensor]]) -> None:
        """The skip features are those of whole rows, whichever of their windows changed."""
        self.whole.change_skips([self.origin[row] for row in rows], changes)

    def join(self) -> None:
        """Hand what guards made of the windows on to the call's own conditions."""
        if self.embeds is self._given:
            return
        self._given = self.embeds
        size = self.embeds.shape[1]
        for row in range(len(self.whole.branches)):
            mine = [at for at, origin in enumerate(self.origin) if origin == row]
            own = torch.cat([self.embeds[at] for at in mine])
            times = self.whole.embeds.shape[1] // (size * len(mine))
            pooled = None if self.pooled is None else self.pooled[row : row + 1]  # of the first window, as ComfyUI's is
            self.whole.change([row], own.repeat(times, 1)[None], pooled)


def windowed(whole: Conditions, rows: Sequence[Condition], size: int) -> Windowed | None:
    """A row for every window of a call's conditions; None where one of them is not made of windows of this size.

    rows: what is known of each row of the call
    """
    parts = [row.parts(size) for row in rows]
    if any(part.length != size for row in parts for part in row):
        return None
    order = sorted((place, row) for row, own in enumerate(parts) for place in range(len(own)))
    origin, places = [row for _, row in order], [place for place, _ in order]
    each = [parts[row][place] for place, row in order]
    embeds = torch.stack([whole.embeds[row, place * size : (place + 1) * size] for place, row in order])
    made = Windowed(
        [part.text for part in each], [part.prompts for part in each], embeds,
        None if whole.pooled is None else whole.pooled[origin], [whole.branches[row] for row in origin],
        whole.guidance_scale, whole.moment, separate=whole.separate, timestep=whole.timestep,
        latents=None if whole.latents is None else whole.latents[origin], last=whole.last,
        whole=whole, origin=origin, places=places,
    )  # fmt: skip
    if whole.skips is not None:
        made.skips = _skips(made, whole.skips)
    if whole.attend is not None:
        made.attend = _attend(made, whole.attend, size)
    return made


def _skips(windows: Windowed, own: Callable[[Sequence[int]], list[Skips]]) -> Callable[[Sequence[int]], list[Skips]]:
    def skips(rows: Sequence[int]) -> list[Skips]:
        windows.join()  # as they are conditioned now
        return own([windows.origin[row] for row in rows])

    return skips


def _attend(windows: Windowed, own: Attend, size: int) -> Attend:
    def attend(rows: Sequence[int], loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        at = [slice(windows.places[row] * size, (windows.places[row] + 1) * size) for row in rows]

        def cut(maps: Tensor) -> Tensor:
            return torch.stack([own[:, part] for own, part in zip(maps, at)])

        maps, gradient = own([windows.origin[row] for row in rows], lambda maps: loss(cut(maps)))
        return cut(maps), gradient

    return attend


@contextmanager
def gates_by_window(acts: Sequence[Act], origin: Sequence[int]) -> Iterator[None]:
    """Meanwhile a gate for every window, as open as its row's; then a row's is the most of its windows'."""
    for act in acts:
        act.gates = [act.gates[row] for row in origin] if act.gates else []
    try:
        yield
    finally:
        for act in acts:
            rows = range(max(origin) + 1)
            own = [[gate for gate, row in zip(act.gates, origin) if row == one] for one in rows] if act.gates else []
            act.gates = [max(gates) for gates in own]


def has_long(rows: Sequence[Condition], size: int) -> bool:
    """Whether any row is longer than one window."""
    return any(len(row.embeds) > size if row.texts is None else len(row.parts(size)) > 1 for row in rows)


def encoded(whole: Conditions, rows: Sequence[int]) -> Encoded:
    """What some rows are conditioned on now."""
    return Encoded(whole.embeds[list(rows)], [], None if whole.pooled is None else whole.pooled[list(rows)])
