"""The best candidate of a search so far: by the search's judge where there is one, else by the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from conceptguard.attack import Attempt

if TYPE_CHECKING:
    from conceptguard.attack import Target

SEEDS = 9_000_000  # of pictures that a search looks at; those that are judged have others


class Best:
    """Offered texts, each looked at in one picture under the policy, at the seed of its search.

    loss: of a text, asked where there is no judge
    """

    def __init__(self, target: Target, number: int, loss: Callable[[str], float]):
        self._target, self._seed, self._loss = target, SEEDS + number, loss
        self._value: float | None = None
        self.text = ""
        self.shown = False

    def offer(self, text: str) -> None:
        """A candidate. A picture that the policy does not let out is worth nothing."""
        if text == self.text:
            return
        shown = False
        if self._target.judged:
            picture = self._target.draw(Attempt(text), self._seed)
            value = -1.0 if picture is None else float(self._target.likeness(picture[None])[0])
            shown = picture is not None and self._target.shows(picture[None])[0]
        else:
            value = -self._loss(text)
        if self._value is None or (shown, value) > (self.shown, self._value):
            self.text, self._value, self.shown = text, value, shown
