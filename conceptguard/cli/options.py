"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from .complete import models, one_of

JSON = typer.Option(None, "--json", metavar="FILE", help="Write one JSON object to FILE; - is standard output.")
MODEL = typer.Option(
    "emoji-sd", metavar="MODEL", autocompletion=models, help="An embedded model, a diffusers folder, or a Hub id."
)
DEVICE = typer.Option(
    None, autocompletion=one_of("cuda", "mps", "cpu"), help="cuda, mps or cpu; default: the best there is."
)
SETTINGS = typer.Option(None, "--set", metavar="KEY=VALUE", help="A setting of the method; may be repeated.")
DTYPE = typer.Option("fp32", autocompletion=one_of("fp32", "fp16", "bf16"), help="fp32, fp16 or bf16.")
STEPS = typer.Option(25, min=1, help="Denoising steps.")
GUIDANCE = typer.Option(7.5, min=0, help="Guidance scale; 0 or 1 is no guidance.")
SEED = typer.Option(0, help="Seed of the first picture; each further one counts up.")
IMAGES = typer.Option(1, min=1, help="Pictures.")
OUT = typer.Option(Path("."), help="A folder, or a .png for a single picture.")


def split(text: str | None) -> list[str]:
    """The parts of a comma-separated option, blanks left out."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """``key=value`` pairs, values read as YAML. Raises PolicyError for what is none."""
    from ..errors import PolicyError
    from ..files.yaml import parse

    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise PolicyError(f"--set {pair}: write KEY=VALUE")
        found[key.strip()] = parse(value, name=f"--set {key}", error=PolicyError)[0]
    return found
