"""Attacks as the command line names them: on pictures, and on language."""

from __future__ import annotations

from typing import Any

from ..errors import meant
from .options import Usage


def attack_kinds(named: list[str] | None, of: type[Any] | None = None) -> dict[str, type[Any]]:
    """Attacks by name, in the order in which they were asked for. of: a kind of them, by default those on pictures.
    Raises Usage with the nearest name."""
    from ..attack import Attack

    known = {name: kind for name, kind in every_attack().items() if issubclass(kind, of or Attack)}
    names = [one for name in named or ["all"] for one in (known if name == "all" else [name])]
    for name in names:
        if name not in known:
            hint = meant(name, known, f"there are {', '.join(known)}")
            raise Usage(f"--attack {name}: {hint}")
    return {name: known[name] for name in dict.fromkeys(names)}


def every_attack() -> dict[str, Any]:
    """On pictures and on language, those first that need least."""
    from ..attack import Attack
    from ..plugins import offers

    known: dict[str, Any] = offers("attacks")
    order = ["black box", "encoder", "states", "white box", "weights"]
    return dict(
        sorted(known.items(), key=lambda one: (not issubclass(one[1], Attack), order.index(one[1].needs), one[0]))
    )
