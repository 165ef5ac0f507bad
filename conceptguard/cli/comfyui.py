"""``conceptguard comfyui``: put the node pack into a ComfyUI, and take it out again."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from .options import JSON

PATH = typer.Argument(..., help="ComfyUI's folder, or the one given as its --base-directory.")


def register(app: typer.Typer) -> None:
    """Put the commands on the program."""
    group = typer.Typer(help="The node pack for ComfyUI.", no_args_is_help=True)
    group.command("install")(install)
    group.command("uninstall")(uninstall)
    app.add_typer(group, name="comfyui")


def install(path: Path = PATH, json: str | None = JSON) -> None:
    """Link the node pack into ComfyUI's custom_nodes, and say what to do next. Again is an update.

    \b
    conceptguard comfyui install ~/ComfyUI
    """
    from ..hosts.comfyui.pack import install as put
    from .output import report

    begin = time.perf_counter()
    done = put(path)
    report("comfyui install", [done.row()], time.perf_counter() - begin, json)
    if json != "-":
        print(done.next)


def uninstall(path: Path = PATH, json: str | None = JSON) -> None:
    """Take the node pack out of ComfyUI's custom_nodes; nothing else is touched.

    \b
    conceptguard comfyui uninstall ~/ComfyUI
    """
    from ..hosts.comfyui.pack import uninstall as take
    from .output import report

    begin = time.perf_counter()
    done = take(path)
    report("comfyui uninstall", [done.row()], time.perf_counter() - begin, json)
    if json != "-":
        print(done.next)
