"""Whether taking neurons away takes a concept away: held-out questions, others, and as many neurons at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..classifier.examples import Example
from .effect import heard, without
from .terms import Neuron, places

CONTROLS = 3  # random draws


class Verdict(NamedTuple):
    """(mean log-likelihood of an answer in nats, share of answers said to the letter), by whom is asked about and
    what is taken away. random: of the draw that takes most of the concept."""

    concept_before: tuple[float, float]
    concept_after: tuple[float, float]
    others_before: tuple[float, float]
    others_after: tuple[float, float]
    random_after: tuple[float, float]

    @property
    def causal(self) -> bool:
        """Whether the concept loses more than at random, and more than others lose."""
        lost = self.concept_before[0] - self.concept_after[0]
        by_chance = self.concept_before[0] - self.random_after[0]
        return lost > max(by_chance, self.others_before[0] - self.others_after[0], 0.0)

    def figures(self) -> dict[str, Any]:
        """Flat, rounded: what is said to the letter, and the nats that an answer loses."""
        lost = {
            "concept": self.concept_before[0] - self.concept_after[0],
            "others": self.others_before[0] - self.others_after[0],
            "random": self.concept_before[0] - self.random_after[0],
        }
        said = {f"said_{name}": round(value[1], 4) for name, value in self._asdict().items()}
        return {**said, **{f"lost_{name}": round(value, 4) for name, value in lost.items()}}

    def told(self) -> str:
        """In a line."""
        f = self.figures()
        said = {name: f"{f[f'said_{name}']:.0%}" for name in self._fields}
        return (
            f"of held-out answers about it, {said['concept_before']} were said to the letter and "
            f"{said['concept_after']} are, {said['random_after']} without as many drawn at random; of others' "
            f"{said['others_before']} and {said['others_after']}; an answer lost {f['lost_concept']:.2f} nats, others "
            f"{f['lost_others']:.2f}, at random {f['lost_random']:.2f}"
        )


def judged(
    host: Any, blocks: Any, widths: Any, neurons: Sequence[Neuron], own: Sequence[Example], others: Sequence[Example],
    seed: int,
) -> Verdict:  # fmt: skip
    """Ask with neurons taken away, and with as many of the same blocks drawn at random."""
    away = without(blocks, widths, neurons)
    draws = [without(blocks, widths, drawn(widths, neurons, seed + i)) for i in range(CONTROLS)]
    none = (0.0, 1.0)
    return Verdict(
        heard(host, own), heard(host, own, away),
        heard(host, others) if others else none, heard(host, others, away) if others else none,
        min(heard(host, own, draw) for draw in draws),
    )  # fmt: skip


def drawn(widths: Any, neurons: Sequence[Neuron], seed: int) -> list[Neuron]:
    """As many others of the same blocks; all that are left where these are fewer."""
    chance, found = random.Random(seed), []
    for layer, own in places(neurons).items():
        left = [place for place in range(widths[layer]) if place not in set(own)]
        found += [Neuron(layer, place) for place in chance.sample(left, min(len(own), len(left)))]
    return found
