"""``conceptguard bench forget``: what making a classifier forget costs."""

from __future__ import annotations

import time

import typer

from .complete import methods
from .options import JSON, VARIANT, Usage, split

COLUMNS = [
    "net", "method", "ratio", "ratio_again", "make_seconds", "make_seconds_again", "retrain_seconds", "peer",
    "ratio_peer", "difference",
]  # fmt: skip


def forget(
    method: list[str] | None = typer.Option(
        None, metavar="M", autocompletion=methods, help="May be repeated. Default: all that change modules."
    ),
    model: str = typer.Option("emoji-classifier", metavar="MODEL", help="A classifier that comes with examples."),
    variant: str | None = VARIANT,
    classes: str = typer.Option("skull,knife", metavar="A,B", help="What is to be forgotten, and what is asked next."),
    repeats: int = typer.Option(3, min=1, help="Rounds; in each, all methods make their artifact, in turn."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    json: str | None = JSON,
) -> None:
    """Time makers on a classifier, as shares of training it again, and what they do another way than a loop would.

    ratio is the processor time of making over that of training from scratch, one epoch of which runs just before each
    making. Nothing is prepared for it; ratio_again is of a second class, by methods that keep what they measured of all
    examples, as after `conceptguard prepare`. ratio_peer is our time over a peer's on the same tensors, and difference
    the largest one of the results.

    \b
    conceptguard bench forget
    conceptguard bench forget --variant vit --method ssd --method damp --method gs_lora
    """
    import torch

    from .. import plugins
    from ..benchmarks.forgetting import measure
    from ..benchmarks.images import against_peers
    from ..measuring.classifier.run import Bench
    from .eval_bench import load_net
    from .output import report
    from .progress import progress

    begin, names = time.perf_counter(), method or sorted(n for n, kind in plugins.methods().items() if kind.modules)
    torch.set_num_threads(threads)
    bench = Bench(load_net(model, "emoji-classifier", "folder", "no classifier that comes with examples", "cpu",
                           variant=variant))  # fmt: skip
    for name in names:
        if not plugins.method(name).modules:
            raise Usage(f"--method {name} changes no modules: try {', '.join(('ssd', 'damp', 'laf'))}")
    first, *rest = split(classes)
    if len(rest) != 1 or not {first, *rest} <= set(bench.examples.classes):
        raise Usage(f"--classes {classes}: write two of {', '.join(bench.examples.classes[:8])} and so on")
    with progress("makings", repeats * len(names)) as tick:
        rows = measure(bench, names, (first, rest[0]), repeats, tick)
    for name in names:
        rows += [{"net": bench.kind, "method": name, **row} for row in against_peers(name, repeats)]
    report("bench forget", rows, time.perf_counter() - begin, json, "cpu", columns=COLUMNS, threads=threads,
           repeats=repeats, classes=classes)  # fmt: skip
