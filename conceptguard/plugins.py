"""The global plugin manager: whatever is shipped or third-party comes in through the entry-point group."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from .errors import ConceptGuardError, PolicyError, SessionError, meant, shown
from .hookspecs import GENERATION, Generation, SetUp

if TYPE_CHECKING:
    from .host import Host
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


def offers(kind: str) -> dict[str, Any]:
    """What plugins offer of a kind, "methods", "attacks", "finders" or "measures", by name.

    Raises ConceptGuardError when two plugins offer one name.
    """
    found: dict[str, Any] = {}
    for offered in getattr(plugin_manager().hook, kind)():
        for one in offered:
            other = found.setdefault(one.name, one)
            if other is not one:
                raise ConceptGuardError(
                    f"{kind.removesuffix('s')} '{one.name}' is offered by {other.__module__} and by {one.__module__}: "
                    "uninstall one"
                )
    return dict(sorted(found.items()))


def hosts() -> list[type[Host]]:
    """All hosts, those of other packages before our own, which they may take objects from; last what takes the rest."""
    found = [host for offered in plugin_manager().hook.hosts() for host in offered]
    return sorted(found, key=lambda host: (host.rest, host.__module__.startswith(f"{GROUP}.")))


def host_for(target: Any) -> Any:
    """The host adapter for an object that draws or speaks. Raises SessionError for what no host takes."""
    return host_class_for(target)(target)


def host_class_for(target: Any) -> type[Host]:
    """The kind of host that takes an object. Raises SessionError where there is none."""
    known = hosts()
    for host in known:
        if host.takes(target):
            return host
    *others, last = sorted(filter(None, (host.about for host in known)))
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    raise SessionError(f"cannot guard a {kind}: give {', '.join(others)} or {last}")


def session_manager() -> pluggy.PluginManager:
    """An empty manager with the generation hooks, one per session."""
    manager = _SessionManager(GROUP)
    manager.add_hookspecs(Generation)
    return manager


class _SessionManager(pluggy.PluginManager):
    """What of a class is a hook is looked up once, and not for each of a thousand guards of one method. Of set-up,
    where a class offers itself, none is in a session."""

    def __init__(self, project_name: str):
        super().__init__(project_name)
        self._of_class: dict[type, dict[str, Any]] = {}

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if name in vars(plugin):
            return super().parse_hookimpl_opts(plugin, name)
        kind = type(plugin)
        if kind not in self._of_class:
            parsed = {each: super(_SessionManager, self).parse_hookimpl_opts(plugin, each) for each in dir(kind)}
            self._of_class[kind] = {each: options for each, options in parsed.items()
                                    if options and (options.get("specname") or each) in GENERATION}  # fmt: skip
        return self._of_class[kind].get(name)


def methods() -> dict[str, type[Method]]:
    """All methods by name. Raises ConceptGuardError when two plugins offer one name, or one a hook that is none."""
    found: dict[str, type[Method]] = offers("methods")
    for method in found.values():
        _check_hooks(method)  # type: ignore[arg-type]  # mypy sees no hash in a class
    return found


@cache  # a policy of a thousand guards asks for its methods some thousand times
def _check_hooks(method: type[Method]) -> None:
    """Raises ConceptGuardError for a hook that no host calls: a guard with it would be there and do nothing."""
    known = GENERATION | {name for name in vars(SetUp) if not name.startswith("_")}
    for name in set(vars(method)) - known:
        if getattr(getattr(method, name), "conceptguard_impl", None):
            hint = meant(name, known, f"the hooks are {', '.join(sorted(GENERATION))}")
            raise ConceptGuardError(f"method '{method.name}' implements '{name}', which no host calls: {hint}")


def hooks(method: type[Method]) -> frozenset[str]:
    """The generation hooks that a method implements."""
    return frozenset(n for n in GENERATION if getattr(getattr(method, n, None), "conceptguard_impl", None))


def method(name: str) -> type[Method]:
    """One method by name. Raises PolicyError with the nearest name."""
    known = methods()
    if name not in known:
        hint = meant(name, known, f"known methods: {', '.join(known)}")
        raise PolicyError(f"unknown method '{shown(name)}': {hint}")
    return known[name]
