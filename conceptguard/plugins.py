"""The global plugin manager: every method, shipped or third-party, comes in through the entry-point group."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pluggy

from .errors import ConceptGuardError, PolicyError
from .hookspecs import GENERATION, Generation, SetUp

if TYPE_CHECKING:
    from .method import Method

GROUP = "conceptguard"


@cache
def plugin_manager() -> pluggy.PluginManager:
    """The process-wide manager, filled from entry points on first use.

    A plugin that cannot be imported is an error, not a missing method: a policy must never run with fewer guards
    than it names because something failed quietly.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(SetUp)
    for point in entry_points(group=GROUP):
        try:
            plugin = point.load()
        except Exception as error:
            raise ConceptGuardError(
                f"plugin '{point.name}' ({point.value}) cannot be imported: {error}; mend it or uninstall it"
            ) from error
        manager.register(plugin, name=point.name)
    return manager


def session_manager() -> pluggy.PluginManager:
    """An empty manager with the generation hooks, one per session."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Generation)
    return manager


def methods() -> dict[str, type[Method]]:
    """All methods by name. Raises ConceptGuardError when two plugins offer one name, or one a hook that is none."""
    found: dict[str, type[Method]] = {}
    for offered in plugin_manager().hook.methods():
        for method in offered:
            _check_hooks(method)
            other = found.setdefault(method.name, method)
            if other is not method:
                raise ConceptGuardError(
                    f"method '{method.name}' is offered by {other.__module__} and by {method.__module__}: uninstall one"
                )
    return dict(sorted(found.items()))


@cache  # a policy of a thousand guards asks for its methods some thousand times
def _check_hooks(method: type[Method]) -> None:
    """Raises ConceptGuardError for a hook that no host calls: a guard with it would be there and do nothing."""
    known = GENERATION | {name for name in vars(SetUp) if not name.startswith("_")}
    for name in set(vars(method)) - known:
        if getattr(getattr(method, name), "conceptguard_impl", None):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the hooks are {', '.join(sorted(GENERATION))}"
            raise ConceptGuardError(f"method '{method.name}' implements '{name}', which no host calls: {hint}")


def hooks(method: type[Method]) -> frozenset[str]:
    """The generation hooks that a method implements."""
    return frozenset(n for n in GENERATION if getattr(getattr(method, n, None), "conceptguard_impl", None))


def method(name: str) -> type[Method]:
    """One method by name. Raises PolicyError with the nearest name."""
    known = methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known methods: {', '.join(known)}"
        raise PolicyError(f"unknown method '{name}': {hint}")
    return known[name]
