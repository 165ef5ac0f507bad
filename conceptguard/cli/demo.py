"""``conceptguard demo``: the embedded model with and without a policy, as a picture and a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from .complete import policies
from .options import JSON, STEPS

MODEL = "emoji-sd"
ON_SHEET = 8
COLUMNS = [
    "method", "concepts", "erased_before", "erased_after", "neighbours_before", "neighbours_after",
    "others_before", "others_after", "identical", "n", "seconds_without", "seconds_with",
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("demo", short_help="Draw the same prompts without and with a policy.")(demo)


def demo(
    out: Path = typer.Option(Path("conceptguard-demo"), metavar="FOLDER", help="For sheet.png and demo.json."),
    policy: str = typer.Option(
        "demo", autocompletion=policies, help="A shipped policy's name or a policy file, for emoji-sd."
    ),
    steps: int = STEPS,
    json: str | None = JSON,
) -> None:
    """See it work: the embedded model draws the same prompts and seeds without and with a policy.

    Writes a contact sheet (sheet.png) and the figures (demo.json), and prints them. No download, no account; eighty
    small pictures, about two minutes on two CPU cores.

    \b
    conceptguard demo
    conceptguard demo --policy school --out school-demo
    """
    from ..errors import RegistryError
    from ..hosts.load import load_model
    from ..measuring.cards import picture
    from ..measuring.cases import case, concepts_of
    from ..measuring.evaluate import row
    from ..measuring.judges import load_judges
    from ..measuring.policies import in_full
    from ..measuring.samples import Recipe, make
    from ..measuring.suite import load_suite
    from ..policy_file import load_policy
    from ..sessions.attach import attach
    from .output import report, result, write_json
    from .progress import progress

    begin = time.perf_counter()
    suite = load_suite(MODEL)
    rules = in_full(load_policy(policy), suite.base)
    concepts = suite.known(concepts_of(rules))
    if not concepts:
        raise RegistryError(f"policy '{rules.name}' guards nothing that {MODEL} can draw: try --policy demo")
    ask = case(suite, rules.name, concepts, rules, max(1, ON_SHEET // len(concepts)), 2 * ON_SHEET)
    judges, pipe, recipe = load_judges(suite), load_model(MODEL), Recipe(steps=steps)
    pipe.set_progress_bar_config(disable=True)
    total = sum(map(len, ask.groups))
    # Both are drawn afresh, never taken from the cache: the seconds are part of what is shown.
    with progress("without the policy", total) as tick:
        started = time.perf_counter()
        before = [make(pipe, samples, recipe, tick) for samples in ask.groups]
        without = time.perf_counter() - started
    with progress("with the policy", total) as tick, attach(pipe, rules):
        started = time.perf_counter()
        after = [make(pipe, samples, recipe, tick) for samples in ask.groups]
        within = time.perf_counter() - started
    figures = row(judges, ask, before, after, MODEL) | {
        "seconds_without": round(without, 2),
        "seconds_with": round(within, 2),
    }
    out.mkdir(parents=True, exist_ok=True)
    guards = len(rules.guards)
    under = f"{MODEL} without and with policy '{rules.name}' ({guards} guards at once), same prompts, same seeds"
    picture(ask, before, after, figures, "conceptguard", under, ON_SHEET).save(out / "sheet.png", optimize=True)
    seconds = time.perf_counter() - begin
    more: dict[str, Any] = {"sheet": str(out / "sheet.png"), "policy": rules.name}
    write_json(result("demo", [figures], seconds, "cpu", **more), str(out / "demo.json"))
    report("demo", [figures], seconds, json, "cpu", columns=COLUMNS, **more)
    if json != "-":
        print(f"\n{out / 'sheet.png'} shows it; {out / 'demo.json'} has the figures ({seconds:.0f} s in all)")
