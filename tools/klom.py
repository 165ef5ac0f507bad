"""KLOM of methods that forget in classifiers: distributions of margins, beside those of models that were retrained.

    python -m tools.klom --method damp --method ssd --json FILE

Of as many models on either side as ``--models`` says. So that these take minutes to train they are perceptrons on the
examples of emoji-classifier, twelve pixels a side. ``retrained`` has other models that never saw the forget set, and is
what chance leaves of so few; ``none`` the models as they are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from conceptguard_plugins.models.datamodels import SIDE, WIDTH
from safetensors.torch import save_file
from torch import Tensor, nn

from conceptguard import attach, load_model
from conceptguard.cli.output import report
from conceptguard.cli.progress import progress
from conceptguard.making.examples import Examples, load_examples
from conceptguard.making.fit import Recipe, fit
from conceptguard.measuring.classifier.control import relabelled
from conceptguard.measuring.classifier.evaluate import Judging
from conceptguard.measuring.classifier.klom import klom_over
from conceptguard.measuring.classifier.measures import logits_of, margins
from conceptguard.measuring.made import made

MODEL, EPOCHS, LR = "emoji-classifier", 24, 1e-2
PARTS = ("forget", "retain", "kept")
COLUMNS = [
    "method", "concept", *(f"{part}_{what}" for part in PARTS for what in ("klom", "error", "p95")), "margin",
    "deviations",
]  # fmt: skip


def perceptron(examples: Examples, places: Tensor, seed: int, epochs: int = EPOCHS) -> nn.Module:
    """A net with one hidden layer, trained on the examples at some places."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.AdaptiveAvgPool2d(SIDE), nn.Flatten(), nn.Linear(3 * SIDE * SIDE, WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, len(examples.classes)),
    )  # fmt: skip
    return fit(net, examples.inputs[places], examples.labels[places], Recipe(epochs, LR), seed).requires_grad_(False)


def pooled(examples: Examples, concept: str, path: Path) -> list[str]:
    """Write the examples as small as the nets see them; gives the classes of a forget set by number."""
    inputs = F.adaptive_avg_pool2d(examples.inputs, SIDE)
    train, test = examples.of("train"), examples.of("held", "unseen")
    save_file({"inputs": inputs[train], "labels": examples.labels[train], "test_inputs": inputs[test],
               "test_labels": examples.labels[test]}, path)  # fmt: skip
    return [str(examples.classes.index(name)) for name in examples.forget[concept]]


class Sides:
    """Margins [models, n] of models that are to forget a set, and of two groups that never saw it."""

    def __init__(self, concept: str, models: int, out: Path, epochs: int = EPOCHS, tick: Any = lambda n: None):
        self.concept, self.models, self.out = concept, models, out
        self.prompts = pooled(load_examples(Path(load_model(MODEL).folder)), concept, out / "examples.safetensors")
        self.examples = load_examples(out / "examples.safetensors")
        self.judging = Judging.of(self.examples, self.prompts)
        train = self.examples.of("train")
        self.nets: list[Any] = []
        never = []
        for number in range(models):
            own = perceptron(self.examples, train, number, epochs)
            own.folder, own.name = out / "examples.safetensors", "perceptron"  # type: ignore[assignment]
            self.nets.append(own)
            for group in (1, 2):
                seed = number + group * models
                never.append(self.margins(perceptron(self.examples, self.judging.retain, seed, epochs)))
            tick(1)
        self.retrained, self.again = torch.stack(never[::2]), torch.stack(never[1::2])

    def margins(self, net: nn.Module) -> Tensor:
        """Of all examples, [n]."""
        return margins(logits_of(net, self.examples.inputs), self.examples.labels)

    def row(self, method: str, own: Tensor) -> dict[str, Any]:
        """KLOM of the forget set, of what is retained, and of test examples of classes that are kept; margins of the
        forget set, and how far they are from the retrained models' on the mean, in deviations of these."""
        found: dict[str, Any] = {"method": method, "concept": self.concept, "models": self.models}
        for part in PARTS:
            places = getattr(self.judging, part)
            spread = klom_over(own[:, places], self.retrained[:, places])
            values = {"klom": spread.mean, "error": spread.error, "p95": spread.p95}
            found |= {f"{part}_{what}": round(value, 4) for what, value in values.items()}
        gone, never = own[:, self.judging.forget], self.retrained[:, self.judging.forget]
        apart = (gone.mean(0) - never.mean(0)) / never.std(0)
        return found | {"margin": round(float(gone.mean()), 4), "deviations": round(float(apart.mean()), 4)}

    def of(self, method: str) -> Tensor:
        """Margins of all models, each with what a method made of it attached."""
        about, found = {"name": self.concept, "prompts": self.prompts}, []
        for number, net in enumerate(self.nets):

            def judge(policy: Any, concept: str, seconds: float, net: nn.Module = net) -> dict[str, Any]:
                with attach(net, policy):
                    return {"margins": self.margins(net)}

            one = made(net, method, about, self.out, {"seed": number}, judge)
            if "refused" in one:
                raise SystemExit(f"{method}: {one['refused']}")
            found.append(one["margins"])
        return torch.stack(found)


def rows(sides: Sides, methods: Sequence[str], tick: Any = lambda n: None) -> Iterator[dict[str, Any]]:
    """Controls, then the methods."""
    judging, examples = sides.judging, sides.examples

    def each(change: Callable[[nn.Module, int], nn.Module]) -> Tensor:
        return torch.stack([sides.margins(change(net, i)) for i, net in enumerate(sides.nets)])

    yield sides.row("retrained", sides.again)
    yield sides.row("none", each(lambda net, i: net))
    yield sides.row("relabel", each(lambda net, i: relabelled(net, examples, judging.forget, judging.retain, i)))
    for method in methods:
        yield sides.row(method, sides.of(method))
        tick(1)


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--method", action="append", default=[], help="again and again")
    parser.add_argument(
        "--concept", default="weapons", help="classes to be forgotten, a set of emoji-classifier [weapons]"
    )
    parser.add_argument("--models", type=int, default=20, help="on either side [20]")
    parser.add_argument("--json", default=None, help="a file, or - for standard output")
    given = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out, progress("klom", given.models + len(given.method)) as tick:
        sides = Sides(given.concept, given.models, Path(out), tick=tick)
        found = list(rows(sides, given.method, tick))
    report("klom", found, time.perf_counter() - began, given.json, columns=COLUMNS)


if __name__ == "__main__":
    main()
