"""``conceptguard plugins``: which methods there are and who brings them."""

from __future__ import annotations

import time
from typing import Any

import typer

from .options import JSON


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("plugins")(plugins)


def plugins(json: str | None = JSON) -> None:
    """List what is installed: methods, what a policy must give each, and the package that brings it; then hosts, and
    what attacks, finders, measures and commands plugins add.

    \b
    conceptguard plugins
    conceptguard plugins --json - | jq '.rows[].method'
    """
    from ..plugins import hosts, methods, offers, plugin_manager
    from . import commands
    from .output import report

    begin = time.perf_counter()
    rows = [
        {"method": name, "needs": method.needs, "makes": _makes(method), "about": _about(method),
         "package": _package(method.__module__), "module": method.__module__}
        for name, method in methods().items()
    ]  # fmt: skip
    extra = typer.Typer()
    plugin_manager().hook.commands(app=extra)
    added: dict[str, Any] = {kind: sorted(offers(kind)) for kind in ("attacks", "finders", "measures")}
    added["commands"] = commands(extra)
    takes = [
        {"host": host.__name__, "takes": host.about, "package": _package(host.__module__), "module": host.__module__}
        for host in hosts()
    ]
    report("plugins", rows, time.perf_counter() - begin, json, columns=["method", "needs", "makes", "package", "about"],
           hosts=takes, **added)  # fmt: skip
    if json != "-":
        print(f"guards attach to: {'; '.join(sorted(filter(None, (row['takes'] for row in takes))))}")
        for kind, names in added.items():
            if names:
                print(f"added {kind}: {', '.join(names)}")


def _makes(method: Any) -> bool:
    from ..method import Method

    base: Any = Method
    return method.learn.__func__ is not base.learn.__func__


def _about(method: Any) -> str:
    return (method.__doc__ or "").strip().split("\n")[0]


def _package(module: str) -> str:
    """Name and version of the distribution that holds a module, told from the entry points."""
    from importlib.metadata import entry_points

    from ..plugins import GROUP

    for point in entry_points(group=GROUP):
        if point.value.split(":")[0].split(".")[0] == module.split(".")[0] and point.dist:
            return f"{point.dist.name} {point.dist.version}"
    return ""
