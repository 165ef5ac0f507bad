"""``conceptguard judge``: a judge for a model of one's own, from pictures that somebody has sorted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from .options import JSON


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("judge", short_help="Train a judge on your own pictures.")(judge)


def judge(
    pictures: Path = typer.Argument(..., help="A folder with one folder of pictures for each object."),
    out: Path = typer.Option(..., metavar="FOLDER", help="Where to write the judge."),
    steps: int = typer.Option(400, min=1, help="Of the training."),
    seed: int = typer.Option(0, help="The same seed gives the same judge."),
    json: str | None = JSON,
) -> None:
    """Train the classifier that says what pictures show, so that guards can be judged on a model of your own.

    \b
    pictures/trumpet/*.jpg  pictures/guitar/*.jpg  pictures/apple/*.jpg  pictures/none/*.jpg
    conceptguard judge pictures --out my-judge
    conceptguard eval --model ./my-sd --suite my-suite.yaml --judge my-judge --guard uce:my-registry/my-sd/uce/trumpet

    Every fifth picture is kept out of the training and tells how far the judge can be trusted; below 0.8 nothing is
    written. missed is the share of an object's pictures that it names otherwise, false that of others' it takes for the
    object, each with the upper end of its 95 % interval. From twenty pictures of each on, another fifth calibrates it.
    Photographs are better than pictures that the judged model has drawn: a judge should owe it nothing.
    """
    from ..measuring.train_judge import read_sorted, train, write_judge
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    found = read_sorted(pictures.expanduser())
    with progress("training", steps) as tick:
        made = train(found, steps, seed, tick=tick)
    write_judge(made, out.expanduser())
    count = found.labels.bincount().tolist()
    rows = [
        {"object": name, "pictures": n, "held_out_accuracy": made.shares[name], **made.stated[name]}
        for name, n in zip(found.names, count)
    ]
    columns = ["object", "pictures", "held_out_accuracy", "missed", "missed_at_most", "false", "false_at_most"]
    told: dict[str, Any] = {"accuracy": made.shares["all"], "folder": str(out), "temperature": made.temperature,
            "calibration_gap": made.gap}  # fmt: skip
    report("judge", rows, time.perf_counter() - begin, json, columns=columns, **told)
    if json != "-":
        print(
            f"{made.shares['all']:.0%} of held-out pictures named right; judge with it: conceptguard eval --judge {out}"
        )
