"""Prompts that are longer than a text encoder's window, for guards that read them token by token.

ComfyUI encodes a long prompt window by window and puts the windows one behind the other. A guard is shown each window
as a row of its own, with the words in it, and what it makes of them goes back to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...generation.conditioning import Encoded
from ...generation.denoising import Attend, Conditions, Skips
from ...receipt import Act
from .conditions import Condition, Part


class Layout(NamedTuple):
    """The windows of a call's rows: first the first windows of all of them, then the others.

    origin: for each window its row; places: which window of that row it is; parts: what is known of it
    """

    origin: list[int]
    places: list[int]
    parts: list[Part]

    def cut(self, embeds: Tensor) -> Tensor:
        """Embeddings [rows, tokens, width] as [windows, tokens of one, width]."""
        size = self.parts[0].length
        return torch.stack([embeds[row, at * size : (at + 1) * size] for row, at in zip(self.origin, self.places)])


def layout(rows: Sequence[Condition], size: int) -> Layout | None:
    """The windows of rows; None where one of them is not made of windows of this size."""
    parts = [row.parts(size) for row in rows]
    if any(part.length != size for own in parts for part in own):
        return None
    order = sorted((place, row) for row, own in enumerate(parts) for place in range(len(own)))
    return Layout([row for _, row in order], [place for place, _ in order], [parts[row][at] for at, row in order])


def has_long(rows: Sequence[Condition], size: int) -> bool:
    """Whether any row is longer than one window."""
    return any(len(row.embeds) > size if row.texts is None else len(row.parts(size)) > 1 for row in rows)


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


def windowed(whole: Conditions, windows: Layout) -> Windowed:
    """A row for every window of a call's conditions."""
    origin, size = windows.origin, windows.parts[0].length
    made = Windowed(
        [part.text for part in windows.parts], [part.prompts for part in windows.parts], windows.cut(whole.embeds),
        None if whole.pooled is None else whole.pooled[origin], [whole.branches[row] for row in origin],
        whole.guidance_scale, whole.moment, separate=whole.separate, timestep=whole.timestep,
        latents=None if whole.latents is None else whole.latents[origin], last=whole.last,
        whole=whole, origin=origin, places=windows.places,
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
def gates_by_window(found: Sequence[tuple[Act, Sequence[float]]], origin: Sequence[int]) -> Iterator[None]:
    """Meanwhile a guard has a gate for every window: its row's, where the window alone opens it, too; what no window
    opens alone is spread over several, and all are open then. Afterwards a row's gate is the most of its windows'.

    found: a guard's act, and for each window whether it opens the gate by itself
    """
    rows = range(max(origin) + 1)
    for act, alone in found:
        spread = [not any(own for own, row in zip(alone, origin) if row == one) for one in rows]
        act.gates = [act.gates[row] if own or spread[row] else 0.0 for own, row in zip(alone, origin)]
    try:
        yield
    finally:
        for act, _ in found:
            act.gates = [max(gate for gate, row in zip(act.gates, origin) if row == one) for one in rows]


def encoded(whole: Conditions, rows: Sequence[int]) -> Encoded:
    """What some rows are conditioned on now."""
    return Encoded(whole.embeds[list(rows)], [], None if whole.pooled is None else whole.pooled[list(rows)])
