"""``conceptguard list``: what the registries have."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

import typer

from ..errors import meant
from .complete import concepts, families, listed_methods
from .options import JSON

if TYPE_CHECKING:
    from ..registry import Registry


SHOWN = 1000  # rows of a table that nobody asked to be longer


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("list", short_help="List the artifacts of all registries.")(list_)


def list_(
    method: str | None = typer.Option(None, autocompletion=listed_methods, help="Only this method."),
    base: str | None = typer.Option(None, autocompletion=families, help="Only this family of base models."),
    concept: str | None = typer.Option(
        None, autocompletion=concepts, help="Only concepts whose name or prompts contain this."
    ),
    limit: int | None = typer.Option(
        None, min=0, help=f"At most so many; 0: all. Default: {SHOWN} in the table, all in --json."
    ),
    json: str | None = JSON,
) -> None:
    """List the artifacts of all registries, with what was measured of them.

    \b
    conceptguard list
    conceptguard list --method spm --base emoji-sd
    conceptguard list --concept gun --json - | jq -r '.rows[].ref'
    """
    from ..errors import RegistryError
    from ..registry import default_registry
    from .output import report

    begin = time.perf_counter()
    registry = default_registry()
    given = {"method": method, "base": base, "concept": concept}
    fitting = registry.search(concept or "", method or "", base or "")
    most = limit if limit is not None else (None if json else SHOWN)
    rows = [{**entry.row(), "signed": registry.standing(entry)} for entry in islice(fitting, most or None)]
    head = ["ref", "bytes", "signed", "erased_before", "erased_after", "identical", "n", "concept", "base", "method"]
    figures = [key for key in dict.fromkeys(k for row in rows for k in row) if key not in {*head, *_NOT_FIGURES}]
    # What a second judge says is in --json, and in `show`.
    figures = [key for key in figures if not key.startswith("second_") and key != "agree"]
    report("list", rows, time.perf_counter() - begin, json, columns=[*head, *figures])
    more = sum(1 for _ in fitting)
    if more and json != "-":
        typer.echo(f"{more:,} more: narrow them by --concept, --method or --base, or give --limit 0", err=True)
    if not rows and any(given.values()):
        raise RegistryError(_nothing_fits(registry, **given))
    if not rows and json != "-":
        typer.echo(
            "no artifacts: make one with `conceptguard make`, or bring one in with `conceptguard import`", err=True
        )


def _nothing_fits(registry: Registry, method: str | None, base: str | None, concept: str | None) -> str:
    """Why nothing is listed: the first word that nothing has, with the nearest that something has."""
    for option, word in (("method", method), ("base", base), ("concept", concept)):
        if word is not None and next(registry.search(**{option: word}), None) is None:
            there = registry.words_like(option, word)
            hint = meant(word, sorted(there), f"there are {', '.join(sorted(there)[:12]) or 'none'}", cutoff=0.5)
            return f"no artifact has --{option} {word}: {hint}"
    given = {"--method": method, "--base": base, "--concept": concept}
    words = " ".join(f"{option} {word}" for option, word in given.items() if word is not None)
    return f"no artifact has all of {words}: leave one out"


_NOT_FIGURES = {"ref", "concept", "base", "method", "bytes", "version", "licence", "source", "picture", "command"}
