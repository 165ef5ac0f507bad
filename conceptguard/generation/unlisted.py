"""Token ids of a text that has words which were added to a tokenizer, as textual inversion adds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Unlisted(list[int]):
    """Ids that do not say what a text asks for: what a learnt word means is known to the encoder alone.

    near: the same with every learnt word as the ordinary token that its vector is nearest to, where one is near
    """

    near: list[int]

    def __init__(self, ids: Sequence[int], near: Sequence[int]):
        super().__init__(ids)
        self.near = list(near)

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Unlisted(found, self.near[at]) if isinstance(at, slice) else found

    @staticmethod
    def joined(*parts: Sequence[int] | None) -> list[int]:
        """Ids one behind the other; unlisted where any of them are."""
        whole = [i for part in parts for i in part or ()]
        if not any(isinstance(part, Unlisted) for part in parts):
            return whole
        return Unlisted(whole, [i for part in parts for i in (part.near if isinstance(part, Unlisted) else part or ())])


def is_read(ids: Sequence[int] | None) -> bool:
    """Whether ids say what a text asks for: there are some, and all of them are the tokenizer's own."""
    return ids is not None and not isinstance(ids, Unlisted)
