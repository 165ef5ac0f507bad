"""The reference of the command line, read from the program itself, methods' own commands included."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import typer

from conceptguard.cli import STATUS, build, offer
from conceptguard.plugins import plugin_manager

from .methods import rows_as_table


def reference() -> str:
    """Every command with its help, its arguments and its options.

    Not by mkdocs-click: newer typers carry a click of their own, which it does not know.
    """
    app = build()
    offer(app)
    plugin_manager().hook.commands(app=app)
    group: Any = typer.main.get_command(app)
    return "\n\n".join(part for path, command in _commands(group, ()) for part in _page(path, command))


def status() -> str:
    """What the program's exit status says."""
    return rows_as_table(["status", "means"], [[str(number), told] for number, told in STATUS.items()])


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner:
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _page(path: tuple[str, ...], command: Any) -> Iterator[str]:
    yield f"## {' '.join(path)}"
    paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    shape = " ".join(["conceptguard", *path, *(p.metavar or p.name.upper() for p in arguments)])
    yield f"```text\n{shape}{' [OPTIONS]' if options else ''}\n```"
    for paragraph in paragraphs:
        marked = paragraph.startswith("\b\n")
        if marked and paragraph.removeprefix("\b\n").lstrip().startswith("conceptguard"):
            yield f"```bash\n{inspect.cleandoc(paragraph.removeprefix(chr(8)))}\n```".replace("\\\\\n", "\\\n")
        elif paragraph:
            yield " ".join(paragraph.removeprefix("\b\n").split()).replace("<", "\\<").replace("*", "\\*")
    if arguments or options:
        yield rows_as_table(["", "default", ""], [_row(p) for p in [*arguments, *options]])


def _row(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [f"`{parameter.metavar or parameter.name.upper()}`", "required" if parameter.required else "",
                _help(parameter)]  # fmt: skip
    named = ", ".join(sorted(parameter.opts, key=len, reverse=True))
    kind = "" if getattr(parameter, "is_flag", False) else f" {_metavar(parameter)}"
    default = parameter.default() if callable(parameter.default) else parameter.default
    unsaid = default is None or default is False or default in ([], (), "")
    told = "required" if parameter.required else "" if unsaid else f"`{default}`"
    return [f"`{named}{kind}`", told, _help(parameter)]


def _metavar(parameter: Any) -> str:
    """What stands for an option's value, in newer typers (a type of their own) and in older ones (click's)."""
    if parameter.metavar:
        return str(parameter.metavar)
    own = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    own = next(iter(get_args(own)), own)
    return str(own.__name__ if own is not None else parameter.type.name).upper()


def _help(parameter: Any) -> str:
    return str(getattr(parameter, "help", "") or "").replace("<", "\\<")
