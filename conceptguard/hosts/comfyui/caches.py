"""ComfyUI's own step caches, EasyCache and LazyCache: in some steps what earlier ones left stands in for the model."""

from __future__ import annotations

from typing import Any

from ...errors import GuardError

_KEY = "easycache"  # of its state among a model's options, and of its wrappers


def has_cache(options: dict[str, Any]) -> bool:
    """Whether a node put one in front of the model."""
    return _KEY in options


def uncached(options: dict[str, Any]) -> dict[str, Any]:
    """Options under which the model is called whatever is kept, and nothing is."""
    wrappers = options.get("wrappers")
    if _KEY not in options or not wrappers:
        return options
    return {**options, "wrappers": {kind: _without(of) for kind, of in wrappers.items()}}


def _without(wrappers: dict[Any, Any]) -> dict[Any, Any]:
    return {key: functions for key, functions in wrappers.items() if key != _KEY}


def stood_in(options: dict[str, Any]) -> bool:
    """Whether the call that ended was left out."""
    return bool(getattr(options.get(_KEY), "skip_current_step", False))


def decide_apart(options: dict[str, Any], pictures: int, acts: bool) -> None:
    """Raises GuardError where a guarded picture would decide for others of its batch whether the model is called."""
    if acts and pictures > 1:
        raise GuardError(
            f"{options[_KEY].name} decides for all pictures of a batch by what they look like together, so a guarded "
            "one would change the others: draw one picture at a time, or take that node out of the graph"
        )
