"""The command line, ``conceptguard``: one small module per command, and nothing heavy is imported before it runs.

Whatever goes wrong is one line on standard error; the exit status says of which kind it is, see ``STATUS``.
"""

from __future__ import annotations

import os
import sys
import textwrap
from importlib import import_module
from types import ModuleType
from typing import Any

import typer

from ..errors import ConceptGuardError, meant
from .complete import from_metavars
from .make import teach
from .options import Usage

# In the order of the help page.
_MODULES = (
    "demo", "generate", "say", "explain", "make", "prepare", "find", "withdraw", "eval", "redteam", "report", "judge",
    "suite", "policy", "listing", "registry", "signing", "plugins", "doctor", "bench", "comfyui",
)  # fmt: skip
OFFERED = "conceptguard.commands"  # the group of entry points whose names are commands

# What a caller may rely on; docs/reference/commands.md shows it.
STATUS = {
    0: "done",
    1: "understood, and not done: something refused, failed, is not there or cannot be read, or a check found a fault",
    2: "not understood: no such command or option, one that is missing, or a value that the option does not take",
    130: "interrupted",
}

EPILOG = """
\b
Start here:
  conceptguard demo
  conceptguard list
  conceptguard generate --model emoji-sd --policy demo --prompt "a cigarette, noto style"

Every command explains itself: conceptguard COMMAND --help

\b
Variables, or a settings file, which `conceptguard doctor` says the place of:
{variables}
"""


def build() -> typer.Typer:
    """The program with our own commands, plugins' not yet asked."""
    app = typer.Typer(
        name="conceptguard", no_args_is_help=True, rich_markup_mode=None, epilog=_epilog(),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )  # fmt: skip

    @app.callback()
    def conceptguard(
        version: bool = typer.Option(False, "--version", is_eager=True, callback=_version, help="Print the version."),
    ) -> None:
        """Say once what must not be generated; the same guards act wherever you generate."""

    for name in _MODULES:
        _module(name).register(app)
    return app


def _epilog() -> str:
    from ..registry.settings import MEANINGS

    lines = []
    for key, (variable, means) in MEANINGS.items():
        told = textwrap.wrap(f"({key}) {means}".replace("`", ""), 52)
        lines += [f"  {variable if n == 0 else '':24}{line}" for n, line in enumerate(told)]
    return EPILOG.replace("{variables}", "\n".join(lines))


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def _version(wanted: bool) -> None:
    if wanted:
        from ..version import __version__

        print(f"conceptguard {__version__}")
        raise typer.Exit()


def commands(app: typer.Typer) -> list[str]:
    """The names of all commands of a program."""
    own = [c.name or getattr(c.callback, "__name__", "").replace("_", "-") for c in app.registered_commands]
    return own + [g.name for g in app.registered_groups if isinstance(g.name, str)]


def main(arguments: list[str] | None = None) -> None:
    """Run the program and leave with its exit status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; the exit status, one of ``STATUS``."""
    app = build()
    try:
        _ask_plugins(app, arguments)
        from_metavars(app)
        teach(app, arguments)
        return int(app(arguments, prog_name="conceptguard", standalone_mode=False) or 0)
    except ConceptGuardError as error:
        return _complain(str(error), 2 if isinstance(error, Usage) else 1)
    except BrokenPipeError:
        # `conceptguard list | head`: the reader has left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except typer.Exit as leave:
        return leave.exit_code
    except Exception as error:
        # Usage errors come from click, which newer typers carry inside: told by what they can do, not by their class.
        if not hasattr(error, "format_message"):
            raise
        return _usage(error)


def _usage(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 2
    message = " ".join(str(error.format_message()).split())
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context else ""
    return _complain(f"{message}{hint}", 2)


def _complain(message: str, status: int) -> int:
    """One line, whatever the message holds."""
    print(f"conceptguard: {' '.join(message.split())}", file=sys.stderr)
    return status


def offer(app: typer.Typer) -> dict[str, str]:
    """Put the commands of other packages on the program: modules of commands alone, which are quick to import.

    Gives those that could not be imported, each with the reason: one broken package takes no other command away.
    """
    from importlib.metadata import entry_points

    broken = {}
    for point in entry_points(group=OFFERED):
        try:
            command = point.load()
        except Exception as error:
            broken[point.name] = f"{type(error).__name__}: {error}"
        else:
            app.command(point.name)(command)
    return broken


def _ask_plugins(app: typer.Typer, arguments: list[str]) -> None:
    """Others are asked only for a command that is none of ours, and methods only for one that nobody names: what they
    import costs the rest nothing."""
    word = next((a for a in arguments if not a.startswith("-")), None)
    if word in commands(app):
        return
    broken = offer(app)
    if word is None or word in commands(app):
        return
    why = f" (it cannot be imported: {broken[word]})" if word in broken else ""
    try:
        from ..plugins import plugin_manager

        plugin_manager().hook.commands(app=app)
    except ConceptGuardError as error:
        why = why or f" ({error})"  # it may be what was to bring the command
    known = commands(app)
    if word not in known:
        hint = meant(word, known, f"commands are {', '.join(known)}", cutoff=0.5)
        raise Usage(f"unknown command '{word}': {hint}{why}")
