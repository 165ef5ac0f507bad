"""``conceptguard prepare``: measure of a model what a method's makings begin with."""

from __future__ import annotations

import time

import typer

from .complete import methods
from .options import DEVICE, JSON, SETTINGS, VARIANT, settings_of


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("prepare", short_help="Measure what makings of a method begin with.")(prepare)


def prepare(
    method: str = typer.Argument(..., metavar="METHOD", autocompletion=methods, help="A method, e.g. ssd or damp."),
    model: str = typer.Option(..., metavar="MODEL", help="A classifier, as for `conceptguard make`."),
    seed: int = typer.Option(0, help="As for the makings."),
    settings: list[str] | None = SETTINGS,
    variant: str | None = VARIANT,
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Measure of a model and all its training examples what a method begins with, whatever is to be forgotten.

    \b
    conceptguard prepare ssd --model emoji-classifier
    conceptguard make ssd --model emoji-classifier --concept skull --out my-registry

    It lies in the cache under a hash of the model's weights and of the examples, and every making with the same --set
    begins with it, wherever it writes to. Without it, the first one measures it.
    """
    from .. import plugins
    from ..errors import PolicyError
    from ..registry.cache import cache_folder
    from .loading import either
    from .output import result, write_json

    begin, kind, given = time.perf_counter(), plugins.method(method), settings_of(settings)
    host = plugins.host_for(either(model, device, variant=variant))
    if not kind.prepare(host, seed=seed, **given):
        raise PolicyError(f"{method} measures nothing beforehand: make artifacts right away")
    seconds = time.perf_counter() - begin
    if json:
        row = {"method": method, "model": model, "seconds": round(seconds, 3)}
        write_json(result("prepare", [row], seconds, str(host.device_dtype()[0])), json)
    if json != "-":
        print(f"{method} is prepared for {model}, in {seconds:.1f} s; kept in {cache_folder()}")
