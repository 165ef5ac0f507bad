"""What opens a guard that is about pictures: a prompt in which one stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conceptguard.policy import Guard
from conceptguard.runtime.within import Opens, always


def opened_by_pictures(guard: Guard, host: Any) -> Opens:
    """The policy's fixed gate, else a prompt with a picture, or one that nobody could read.

    Raises SessionError for a model that sees nothing.
    """
    image = host.sight().image
    if isinstance(guard.gate, float):
        return always(guard.strength * guard.gate)
    if guard.gate == "always":
        return always(guard.strength)

    def opens(ids: Sequence[int] | None, text: str | None) -> float:
        return guard.strength if ids is None or image in ids else 0.0

    return opens
