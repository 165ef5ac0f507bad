"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ..errors import ConceptGuardError
from .complete import guards, models, one_of, policies_or_none

JSON = typer.Option(None, "--json", metavar="FILE", help="Write one JSON object to FILE; - is standard output.")
MODEL = typer.Option(
    "emoji-sd",
    metavar="MODEL",
    autocompletion=models,
    help="An embedded model, a folder or single .safetensors checkpoint of diffusers', or a Hub id.",
)
CONFIG = typer.Option(
    None,
    "--config",
    metavar="FOLDER",
    help="For a single-file checkpoint: a diffusers folder or Hub id whose parts are as large; default: asks the Hub.",
)
VARIANT = typer.Option(None, metavar="fp16", help="Which of a model's weight files, where it has several.")
POLICY = typer.Option(
    None,
    metavar="POLICY",
    autocompletion=policies_or_none,
    help="A policy file, a shipped policy's name, or YAML text; 'none' says that you want no guard.",
)
GUARD = typer.Option(
    None,
    "--guard",
    metavar="METHOD[:WHAT]",
    autocompletion=guards,
    help="One guard without a file: WHAT is its artifact, or for a method that takes a concept in words, words "
    "with commas between. May be repeated, and stand beside --policy.",
)
DEVICE = typer.Option(
    None, autocompletion=one_of("cuda", "mps", "cpu"), help="cuda, mps or cpu; default: the best there is."
)
SETTINGS = typer.Option(None, "--set", metavar="KEY=VALUE", help="A setting of the method; may be repeated.")
DTYPE = typer.Option("fp32", autocompletion=one_of("fp32", "fp16", "bf16"), help="fp32, fp16 or bf16.")
STEPS = typer.Option(25, min=1, help="Denoising steps.")
GUIDANCE = typer.Option(7.5, min=0, help="Guidance scale; 0 or 1 is no guidance.")
SEED = typer.Option(0, help="Seed of the first picture or answer; each further one counts up.")
IMAGES = typer.Option(1, min=1, help="Pictures.")
PROMPTS = typer.Option(
    None,
    "--prompts",
    metavar="FILE",
    help="Prompts from a file: .txt, one a line; .csv or .jsonl with the columns prompt and, where wanted, seed and "
    "negative_prompt.",
)
ON = typer.Option(
    None,
    "--on",
    metavar="ray|ray://HOST:PORT",
    autocompletion=one_of("ray"),
    help="Many at once, on workers of a Ray cluster: ray is one on this machine, or the one that RAY_ADDRESS names.",
)
WORKERS = typer.Option(None, min=1, help="Of a cluster: so many workers; default: as many as there is room for.")
GPUS = typer.Option(None, min=0, help="Of each worker; 0.25 puts four on one GPU. Default: one, where there are any.")
OUT = typer.Option(Path("."), help="A folder, or a .png for a single picture.")


class Usage(ConceptGuardError):
    """Something typed that no command and no option takes: exit status 2, where other errors are 1."""


def split(text: str | None) -> list[str]:
    """The parts of a comma-separated option, blanks left out."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """``key=value`` pairs, values read as YAML. Raises Usage for what is none, PolicyError for a value that is no
    YAML."""
    from ..errors import PolicyError
    from ..files.yaml import parse

    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise Usage(f"--set {pair}: write KEY=VALUE")
        found[key.strip()] = parse(value, name=f"--set {key}", error=PolicyError)[0]
    return found
