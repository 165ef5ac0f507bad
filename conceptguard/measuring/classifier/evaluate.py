"""One row for each model that was to forget: what it names, beside what models name that never saw that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...making.examples import Examples
from .measures import features_of, logits_of, margins, membership, probe
from .references import References

BAR = 0.03  # of each accuracy, to the mean of the retrained models


@dataclass
class Judging:
    """A forget set and what it is judged on: places of what is forgotten, retained, and of test examples that are of
    classes that are still there (``kept``) or of those that are gone as a whole (``gone``)."""

    examples: Examples
    forget: Tensor
    retain: Tensor
    kept: Tensor
    gone: Tensor

    @classmethod
    def of(cls, examples: Examples, prompts: Sequence[str]) -> Judging:
        """Of a concept's prompts. Raises PolicyError as ``Examples.matching``."""
        forget, train, test = examples.matching(prompts), examples.of("train"), examples.of("held", "unseen")
        retain = train[~torch.isin(train, forget)]
        there = torch.isin(examples.labels[test], examples.labels[retain])
        return cls(examples, forget, retain, test[there], test[~there])

    def measured(self, net: nn.Module) -> Measured:
        """A model's margins, what it names, and what a probe recovers."""
        examples = self.examples
        logits = logits_of(net, examples.inputs)
        recovered = float("nan")
        if len(self.gone):
            both = torch.cat([self.forget, self.retain])
            recovered = probe(features_of(net, examples.inputs), examples.labels, both, self.gone)
        return Measured(margins(logits, examples.labels), logits.argmax(1), recovered)

    def right(self, named: Tensor, places: Tensor) -> float:
        """Share that is named rightly."""
        return float((named[places] == self.examples.labels[places]).double().mean())


@dataclass
class Measured:
    """margins [n], named [n], probe."""

    margins: Tensor
    named: Tensor
    probe: float


def row(
    judging: Judging, own: Measured, references: References, method: str, concept: str, **more: Any
) -> dict[str, Any]:
    """Columns: accuracies of the model and, after ``re_``, the retrained models' means; ``gap``: the largest of the
    three differences; ``membership``: see ``measures``; ``probe``: of features, on test examples of what is gone;
    ``margins``: mean distance of margins on what is forgotten to the retrained models' mean, in logits."""
    found: dict[str, Any] = {"method": method, "concept": concept}
    gaps = []
    for name, places in (("forget", judging.forget), ("retain", judging.retain), ("test", judging.kept)):
        said = judging.right(own.named, places)
        retrained = sum(judging.right(one, places) for one in references.named) / len(references.named)
        found[name], found[f"re_{name}"] = round(said, 4), round(retrained, 4)
        gaps.append(abs(said - retrained))
    found["gap"] = round(max(gaps), 4)
    found["membership"] = round(membership(own.margins, references.margins, judging.forget, judging.kept), 4)
    if len(judging.gone):
        found["probe"], found["re_probe"] = round(own.probe, 4), round(float(references.probes.mean()), 4)
    distance = (own.margins - references.margins.mean(0))[judging.forget].abs().mean()
    found["margins"] = round(float(distance), 3)
    return {**found, "passes": max(gaps) <= BAR, **more}


def retrained_row(judging: Judging, references: References, concept: str) -> dict[str, Any]:
    """The first retrained model judged by the others: what a perfect method could reach."""
    rest = References(references.margins[1:], references.named[1:], references.probes[1:])
    own = Measured(references.margins[0], references.named[0], float(references.probes[0]))
    return row(judging, own, rest, "retrained", concept)
