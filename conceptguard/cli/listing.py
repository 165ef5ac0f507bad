"""``conceptguard list``: what the registries have."""

from __future__ import annotations

import difflib
import time
from typing import TYPE_CHECKING

import typer

from .complete import concepts, families, listed_methods
from .options import JSON

if TYPE_CHECKING:
    from ..registry import Entry


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("list", short_help="List the artifacts of all registries.")(list_)


def list_(
    method: str | None = typer.Option(None, autocompletion=listed_methods, help="Only this method."),
    base: str | None = typer.Option(None, autocompletion=families, help="Only this family of base models."),
    concept: str | None = typer.Option(
        None, autocompletion=concepts, help="Only concepts whose name or prompts contain this."
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
    entries = default_registry().entries()
    given = {"method": method, "base": base, "concept": concept}
    fitting = [entry for entry in entries if _fits(entry, **given)]
    rows = [entry.row() for entry in fitting]
    head = ["ref", "bytes", "erased_before", "erased_after", "identical", "n", "concept", "base", "method"]
    figures = [key for key in dict.fromkeys(k for row in rows for k in row) if key not in {*head, *_NOT_FIGURES}]
    report("list", rows, time.perf_counter() - begin, json, columns=[*head, *figures])
    if not rows and any(given.values()):
        raise RegistryError(_nothing_fits(entries, **given))
    if not rows and json != "-":
        typer.echo(
            "no artifacts: make one with `conceptguard make`, or bring one in with `conceptguard import`", err=True
        )


def _fits(entry: Entry, method: str | None, base: str | None, concept: str | None) -> bool:
    texts = [entry.concept, entry.name, *entry.prompts]
    wanted = concept is None or any(concept.lower() in text.lower() for text in texts)
    return wanted and method in (None, entry.method) and base in (None, entry.base)


def _nothing_fits(entries: list[Entry], method: str | None, base: str | None, concept: str | None) -> str:
    """Why nothing is listed: the first word that nothing has, with the nearest that something has."""
    known = {
        "--method": (method, {entry.method for entry in entries}),
        "--base": (base, {entry.base for entry in entries}),
        "--concept": (concept, {entry.concept for entry in entries} | {entry.name for entry in entries}),
    }
    for option, (word, there) in known.items():
        if word is not None and not any(
            _fits(e, **{"method": None, "base": None, "concept": None, option.removeprefix("--"): word})
            for e in entries
        ):
            near = difflib.get_close_matches(word, sorted(there), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(there)[:12]) or 'none'}"
            return f"no artifact has {option} {word}: {hint}"
    words = " ".join(f"{option} {word}" for option, (word, _) in known.items() if word is not None)
    return f"no artifact has all of {words}: leave one out"


_NOT_FIGURES = {"ref", "concept", "base", "method", "bytes", "version", "licence", "source", "picture", "command"}
