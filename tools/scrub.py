"""SCRUB, today's reference, as a peer: ``supreme-unlearning`` has emoji-classifier forget, judged as our methods are.

    SUPREME_PATH=FOLDER python -m tools.scrub --json FILE

FOLDER is where it was installed by itself, since its pins would take torch back by years:
``pip install --no-deps --target FOLDER supreme-unlearning lightning lightning-utilities torchmetrics``

Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023. With the package's own settings,
``defaults``, by which a class of twenty pictures is three steps in all; and with ``small batches`` of what is to be
forgotten, without weight decay and without the pull to where weights were.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from conceptguard import load_model
from conceptguard.cli.output import report
from conceptguard.measuring.classifier.evaluate import row
from conceptguard.measuring.classifier.run import Bench

SETS = ("skull", "weapons")
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {}, "small batches": {"batch": 4, "sgda_weight_decay": 0.0, "smoothing": 0.0}
}  # fmt: skip
COLUMNS = ["method", "concept", "forget", "re_forget", "retain", "re_retain", "test", "re_test", "gap", "membership",
           "margins", "ratio", "passes"]  # fmt: skip


def scrubbed(
    net: nn.Module, inputs: Tensor, labels: Tensor, forget: Tensor, retain: Tensor, batch: int = 64, **settings: Any
) -> nn.Module:
    """A copy that its code was run on. batch: of what is to be forgotten"""
    from lightning.fabric import Fabric
    from supreme.methods.unlearning_methods.scrub import scrub

    def batches(places: Tensor, size: int = 64) -> DataLoader[Any]:
        data = TensorDataset(inputs[places], places, labels[places])
        return DataLoader(data, size, shuffle=True, generator=torch.Generator().manual_seed(0))

    fabric = Fabric(accelerator="cpu", devices=1)
    own = copy.deepcopy(net).requires_grad_(True)
    with contextlib.redirect_stdout(sys.stderr):
        scrub(fabric, 0, False, own, batches(retain), batches(forget, batch), **settings)
    return own.eval().requires_grad_(False)


def rows(bench: Bench, sets: Sequence[str] = SETS) -> list[dict[str, Any]]:
    """A retrained model, then SCRUB with either settings, of each forget set."""
    found = []
    for concept in sets:
        judging, references = bench.judged(concept)
        found.append(bench.retrained(concept))
        for name, settings in SETTINGS.items():
            began = time.process_time()
            net = scrubbed(bench.net, bench.examples.inputs, bench.examples.labels, judging.forget, judging.retain,
                           **settings)  # fmt: skip
            seconds = time.process_time() - began
            took = {"make_seconds": round(seconds, 3), "ratio": round(seconds / bench.retrain_seconds, 4)}
            found.append(row(judging, judging.measured(net), references, f"scrub, {name}", concept, **took))
            print(found[-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", default=None, help="a file, or - for standard output")
    given = parser.parse_args()
    place = os.environ.get("SUPREME_PATH")
    if not place:
        raise SystemExit(
            "SUPREME_PATH is not set: say where supreme-unlearning was installed, see python -m tools.scrub -h"
        )
    sys.path.append(place)
    began = time.perf_counter()
    bench = Bench(load_model("emoji-classifier"))
    report("scrub", rows(bench), time.perf_counter() - began, given.json, columns=COLUMNS, net=bench.kind, set={},
           retrain_seconds=round(bench.retrain_seconds, 2))  # fmt: skip


if __name__ == "__main__":
    main()
