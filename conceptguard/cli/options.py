"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import typer

JSON = typer.Option(None, "--json", metavar="FILE", help="Write one JSON object to FILE; - is standard output.")
MODEL = typer.Option("emoji-sd", metavar="MODEL", help="An embedded model, a diffusers folder, or a Hub id.")
DEVICE = typer.Option(None, help="cuda, mps or cpu; default: the best there is.")
DTYPE = typer.Option("fp32", help="fp32, fp16 or bf16.")


def split(text: str | None) -> list[str]:
    """The parts of a comma-separated option, blanks left out."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
