"""What datamodels and TRAK predict of models trained without some examples, beside models that really were.

    python -m tools.attribution --json FILE

``lds``: trainings on parts that datamodels were not fitted on are ranked, for each training example, by the margin that
is predicted of it; Spearman's correlation with the margins that they have, mean over examples. ``told``: the share of
these margins' variance that datamodels predict. The margins of the sets that are judged are means over what is
forgotten, in logits; ``retrained`` are the references of emoji-classifier.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from conceptguard_plugins.models.datamodels import Datamodels, sources_of, train_side_by_side
from conceptguard_plugins.models.trak import trak
from scipy.stats import spearmanr
from torch import Tensor

from conceptguard import load_model
from conceptguard.cli.output import report
from conceptguard.measuring.classifier.measures import logits_of, margin_of, margins
from conceptguard.measuring.classifier.run import Bench

from .klom import EPOCHS, perceptron

TRAININGS, HELD = 320, 32
COLUMNS = ["of", "as_it_is", "retrained", "datamodel", "trak", "lds_datamodel", "lds_trak", "told", "make_seconds"]


def ranked(models: Datamodels, labels: Tensor, scores: Tensor) -> dict[str, Any]:
    """How well both rank trainings that were kept back. scores [n, n]: of TRAK, of a model of the same kind."""
    known = Datamodels(models.logits[HELD:], models.there[HELD:], models.sources)
    own = torch.stack([margins(one.float(), labels) for one in models.logits])
    there = models.there[:HELD]
    predicted = known.said(there, own[HELD:])
    apart = (own[:HELD] - own[HELD:].mean(0)).pow(2).mean()
    by_trak = there[:, models.sources.at].float() @ scores.T

    def correlation(said: Tensor) -> float:
        found = [spearmanr(a, b).statistic for a, b in zip(said.T.tolist(), own[:HELD].T.tolist())]
        return round(float(torch.tensor(found).nanmean()), 4)

    return {
        "of": f"{HELD} trainings kept back", "lds_datamodel": correlation(predicted), "lds_trak": correlation(by_trak),
        "told": round(1 - float((predicted - own[:HELD]).pow(2).mean() / apart), 4),
    }  # fmt: skip


def rows(bench: Bench) -> list[dict[str, Any]]:
    """The ranking, then a row for each set that is judged."""
    examples = bench.examples
    train = examples.of("train")
    inputs, labels, classes = examples.inputs[train], examples.labels[train], len(examples.classes)
    sources = sources_of([examples.keys[i] for i in train.tolist()], labels)
    began = time.process_time()
    models = train_side_by_side(inputs, labels, sources, classes, TRAININGS, EPOCHS)
    seconds = round(time.process_time() - began, 1)
    random = torch.Generator().manual_seed(0)
    of_small = trak(perceptron(examples, train, 0), inputs, labels, random)
    found = [{**ranked(models, labels, of_small), "make_seconds": seconds}]
    scores, before = trak(bench.net, inputs, labels, random), logits_of(bench.net, inputs)
    for name in bench.sets:
        own = torch.isin(train, examples.matching(examples.forget[name]))
        told = {
            "as_it_is": margin_of(before, labels),
            "retrained": bench.judged(name)[1].margins.mean(0)[train],
            "datamodel": margin_of(before + models.change(sources.of(own)), labels),
            "trak": margin_of(before, labels) - scores[:, own].sum(1),
        }
        found.append({"of": name, **{key: round(float(value[own].mean()), 3) for key, value in told.items()}})
    return found


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", default=None, help="a file, or - for standard output")
    given = parser.parse_args()
    began = time.perf_counter()
    report("attribution", rows(Bench(load_model("emoji-classifier"))), time.perf_counter() - began, given.json,
           columns=COLUMNS)  # fmt: skip


if __name__ == "__main__":
    main()
