"""Which value vectors hold a concept: read through the head and tried one by one, or by what answers owe to them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from conceptguard.concept import Concept

from ..lessons import whole
from ..neurons.blocks import weight_of
from ..neurons.effect import most_owed
from ..neurons.examined import Examining, Neurons
from ..neurons.head import through_head, tokens_of_concept
from ..neurons.terms import Neuron


class Choosing(Examining):
    """How vectors are chosen.

    ranked: "effect", by what answers owe to a vector, in rounds; "head", the tokens that a vector says through the
        language-model head, and then by what is lost without it, one by one [as published, tokens judged by GPT-4]
    count: how many vectors [1]
    rounds: of ranked: effect; each is measured without the vectors of those before
    spare: of ranked: effect; how much of what others owe to a vector counts against it
    candidates: of ranked: head; how many are tried one by one
    normed: of ranked: head; whether the final norm stands before the head
    """

    ranked: Literal["effect", "head"] = "effect"
    count: int = Field(default=128, ge=1)
    rounds: int = Field(default=4, ge=1)
    spare: float = Field(default=1.0, ge=0)
    candidates: int = Field(default=64, ge=1)
    normed: bool = True


class Vectors(Neurons):
    """The value vectors of one model. Raises PolicyError also for weights that cannot be read."""

    def __init__(self, host: Any, concept: Concept | None, s: Choosing, what: str):
        super().__init__(host, s, what)
        self.concept, self.s = concept, s
        self.weights = {block.number: weight_of(host, block.down) for block in self.blocks}

    def by_head(self, k: int) -> tuple[list[Neuron], list[float], list[list[int]]]:
        """Of every block: vectors, how much each says the concept (or, without one, anything), its k tokens."""
        own, others = ([whole(one) for one in some] for some in (self.own, self.others))
        weights = tokens_of_concept(self.host, self.concept, own, others) if self.concept else None
        neurons: list[Neuron] = []
        scores: list[float] = []
        tokens: list[list[int]] = []
        for number, weight in self.weights.items():
            read = through_head(self.host, weight.T, weights, self.s.normed, k)
            neurons += [Neuron(number, place) for place in range(len(read.scores))]
            scores += read.scores.tolist()
            tokens += read.tokens.tolist()
        return neurons, scores, tokens

    def chosen(self, bar: Any) -> list[Neuron]:
        """The vectors that hold the concept, the surest first."""
        s = self.s
        if s.ranked == "effect":
            with bar(s.rounds, ", rounds") as tick:
                return most_owed(
                    self.host, self.blocks, self.widths, self.own, self.others, s.count, s.rounds, s.spare, tick
                )
        neurons, scores, _ = self.by_head(1)
        best = torch.tensor(scores).topk(min(max(s.candidates, s.count), len(scores))).indices.tolist()
        with bar(len(best), ", one by one") as tick:
            lost = self.lost([neurons[i] for i in best], tick)
        order = sorted(range(len(best)), key=lambda i: -lost[i])[: s.count]
        return [neurons[best[i]] for i in order]
