"""What a shell completes beside commands and options: names that are at hand without torch and without a network.

A press of the tab key must be quick and say nothing but names: what cannot be read completes to nothing, and where
nothing fits the shell goes on to files.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..registry.index import Entry
    from ..registry.listing import Listing
    from ..registry.local import LocalSource

# Names come from registries of other people, and a shell would read more than letters into the rest.
_WORD = re.compile(r"[\w./-]+")
_LISTED = re.compile(r"[a-z\d_-]+(\|[a-z\d_-]+)+")


def one_of(*words: str) -> Callable[[], list[str]]:
    """A completion that always offers these."""
    return lambda: list(words)


def _one_of(*words: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        for one in [value] if isinstance(value, str) else value or []:
            if one not in words:
                raise typer.BadParameter(f"'{one}': write {', '.join(words[:-1])} or {words[-1]}")
        return value

    return check


_ATTACKS = "conceptguard_plugins.attacks."
# What comes in by the same road as methods: what the package itself brings are hosts and the like.
_FINDERS = "conceptguard_plugins.finding."
_OTHERS = ("conceptguard.", _ATTACKS, _FINDERS)


def from_metavars(app: typer.Typer) -> None:
    """Let options whose help lists their values, as `wall|cpu` does, complete to them, and take no other."""
    for command in app.registered_commands:
        for parameter in inspect.signature(command.callback).parameters.values() if command.callback else ():
            listed = getattr(parameter.default, "metavar", None) or ""
            if _LISTED.fullmatch(listed) and not parameter.default.autocompletion:
                parameter.default.autocompletion = one_of(*listed.split("|"))
                parameter.default.callback = _one_of(*listed.split("|"))
    for group in app.registered_groups:
        if group.typer_instance:
            from_metavars(group.typer_instance)


def methods() -> list[str]:
    """Methods by their entry points' names: to ask the methods themselves would import them, and torch with them."""
    from importlib.metadata import entry_points

    return _words(point.name for point in entry_points(group="conceptguard") if not point.value.startswith(_OTHERS))


def attacks() -> list[str]:
    """Ours by their entry points' names, and all."""
    from importlib.metadata import entry_points

    found = [point.name for point in entry_points(group="conceptguard") if point.value.startswith(_ATTACKS)]
    return _words(["all", "list", "worst_case", *found])


def finders() -> list[str]:
    """Our finders of concepts in pictures."""
    from importlib.metadata import entry_points

    return _words(point.name for point in entry_points(group="conceptguard") if point.value.startswith(_FINDERS))


def refs(incomplete: str) -> list[str]:
    """References of artifacts, as `conceptguard list` shows them; of many, those that begin so."""
    return _words(entry.ref for entry in _entries() if entry.ref.startswith(incomplete))


def guards(incomplete: str) -> list[str]:
    """Methods, and after a colon their artifacts."""
    method, colon, _ = incomplete.partition(":")
    if not colon:
        return methods()
    return [f"{method}:{ref}" for ref in _words(entry.ref for entry in _entries() if entry.method == method)]


def listed_methods() -> list[str]:
    """Methods that some artifact is of."""
    return _words(kind for listing in _listings() for kind in listing.kinds("method"))


def families() -> list[str]:
    """Families of base models that some artifact is for."""
    return _words(kind for listing in _listings() for kind in listing.kinds("base"))


def concepts(incomplete: str) -> list[str]:
    """Concepts of artifacts; after a comma the next one."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + name for name in _words(entry.concept for entry in _entries())]


def models() -> list[str]:
    """Embedded models."""
    return _words(name for source in _sources() for name in source.models())


def policies() -> list[str]:
    """Shipped policies."""
    from ..registry import shipped_folder

    return _words(Path(file).stem for file in (shipped_folder() / "policies").glob("*.yaml"))


def policies_or_none() -> list[str]:
    """Shipped policies, and none, which says that no guard is wanted."""
    return ["none", *policies()]


def _sources() -> list[LocalSource]:
    """Registries on this machine: nobody waits for a network at a press of a key."""
    from ..registry import default_registry
    from ..registry.local import LocalSource

    return [source for source in default_registry().sources if isinstance(source, LocalSource)]


def _entries() -> Iterator[Entry]:
    for listing in _listings():
        yield from listing


def _listings() -> list[Listing]:
    from ..errors import ConceptGuardError

    found: list[Listing] = []
    for source in _sources():
        with suppress(ConceptGuardError):
            found.append(source.listing())
    return found


def _words(names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if _WORD.fullmatch(name)})
