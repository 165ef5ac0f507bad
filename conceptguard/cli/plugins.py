"""``conceptguard plugins``: which methods there are and who brings them."""

from __future__ import annotations

import inspect
import time
from typing import Any

import typer

from .complete import methods
from .options import JSON
from .table import wrapped


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("plugins", short_help="List methods, or one with its settings.")(plugins)


def plugins(
    name: str | None = typer.Argument(
        None, metavar="[METHOD]", autocompletion=methods, help="One method, with its settings; default: all there is."
    ),
    json: str | None = JSON,
) -> None:
    """List methods and who brings them; or one, with all its settings.

    \b
    conceptguard plugins
    conceptguard plugins sld
    conceptguard plugins --json - | jq '.rows[].method'

    Beside methods: hosts, and what attacks, finders, measures and commands plugins add.
    """
    from ..plugins import hosts, methods, offers, plugin_manager
    from . import commands, offer
    from .output import report

    if name is not None:
        return _one(name, json)
    begin = time.perf_counter()
    rows = [_row(name, method) for name, method in methods().items()]
    extra = typer.Typer()
    offer(extra)
    plugin_manager().hook.commands(app=extra)
    added: dict[str, Any] = {kind: sorted(offers(kind)) for kind in ("attacks", "finders", "measures")}
    added["commands"] = commands(extra)
    takes = [
        {"host": host.__name__, "takes": host.about, "package": _package(host.__module__), "module": host.__module__}
        for host in hosts()
    ]
    report("plugins", rows, time.perf_counter() - begin, json, columns=["method", "needs", "makes", "from", "about"],
           hosts=takes, **added)  # fmt: skip
    if json != "-":
        lines = [f"guards attach to: {'; '.join(sorted(filter(None, (row['takes'] for row in takes))))}"]
        lines += [f"added {kind}: {', '.join(names)}" for kind, names in added.items() if names]
        for line in [*lines, "settings of a method: conceptguard plugins METHOD"]:
            print(wrapped(line))


def _one(name: str, json: str | None) -> None:
    """A method: what it is, what a policy gives it, its settings."""
    from .. import plugins
    from .fields import settings_rows
    from .output import print_table, result, write_json

    begin = time.perf_counter()
    method = plugins.method(name)
    settings = {"settings": settings_rows(method.Settings)}
    if makes(method):
        settings["make"] = settings_rows(method.MakeSettings)
    if json:
        row = {**_row(name, method), "doc": inspect.getdoc(method), "hooks": sorted(plugins.hooks(method)), **settings}
        write_json(result("plugins", [row], time.perf_counter() - begin), json)
    if json == "-":
        return
    needs = {
        "artifact": f"an artifact, {{method: {name}, artifact: family/{name}/name}}: see `conceptguard list --method "
        f"{name}`",
        "concept": f"a concept in words, {{method: {name}, concept: {{name: beer, prompts: [beer, lager]}}}}, or an "
        "artifact",
        "nothing": f"nothing but its name, {{method: {name}}}, and what its settings say",
    }[method.needs]
    print("\n\n".join(wrapped(part) for part in (inspect.getdoc(method) or name).split("\n\n")))
    print(f"\n{wrapped(f'A policy gives it {needs}.')}")
    parts = {
        "Settings, in a policy beside the method:": settings["settings"],
        f"Settings of `conceptguard make {name} --set KEY=VALUE`:": settings.get("make"),
    }
    for title, part in parts.items():
        if part is None:
            continue
        print(f"\n{title}\n")
        print_table(part) if part else print("none of its own")
    print("\n" + wrapped("Every guard also takes strength, gate and preserve: see `conceptguard policies --help`."))


def _row(name: str, method: Any) -> dict[str, Any]:
    package = _package(method.__module__)
    return {"method": name, "needs": method.needs, "makes": makes(method), "acts_on": acts_on(method),
            "about": _about(method), "package": package, "module": method.__module__,
            "from": "" if package.startswith("conceptguard ") else package}  # fmt: skip


def acts_on(method: Any) -> str:
    """ "pictures", "text" or "modules", or all of them."""
    from .. import plugins
    from ..hookspecs import TEXT

    if method.modules:
        return "modules, pictures, text" if method.generating else "modules"
    return "text" if plugins.hooks(method) & TEXT else "pictures"


def makes(method: Any) -> bool:
    """Whether a method makes artifacts."""
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
