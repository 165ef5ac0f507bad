"""Which neurons are a concept's: rows of the up-projection through the language-model head, without training."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.concept import Concept

from ..lessons import whole
from ..neurons.blocks import weight_of
from ..neurons.examined import Examining, Neurons
from ..neurons.head import CHUNK, tokens_of_concept
from ..neurons.terms import Neuron


class Reading(Examining):
    """How neurons are chosen.

    count: how many neurons, the likeliest first [1]
    normed: whether the final norm stands before the head [unread]
    """

    count: int = Field(default=16, ge=1)
    normed: bool = True


class Likely(NamedTuple):
    """Of n neurons. p: the probability of the concept's tokens, a geometric mean where they are several, or without a
    concept of whichever token is likeliest, [n]; tokens: the ids that each finds likeliest, [n, k]."""

    neurons: list[Neuron]
    p: Tensor
    tokens: Tensor


class FeatureNeurons(Neurons):
    """The neurons of one model by what moves them. Raises PolicyError also for weights that cannot be read."""

    def __init__(self, host: Any, concept: Concept | None, s: Reading, what: str):
        super().__init__(host, s, what)
        self.concept, self.s = concept, s
        self.rows = {block.number: weight_of(host, block.up) for block in self.blocks}

    def read(self, k: int) -> Likely:
        """All neurons. Raises BaseMismatch for a model without a head."""
        weights = self._tokens()
        neurons: list[Neuron] = []
        p, tokens = [], []
        for number, rows in self.rows.items():
            neurons += [Neuron(number, place) for place in range(len(rows))]
            for begin in range(0, len(rows), CHUNK):
                found = self.host.through_head(rows[begin : begin + CHUNK], self.s.normed)
                likely = found.log_softmax(-1)
                if weights is None:
                    p.append(likely.amax(1).exp().cpu())
                else:
                    p.append((likely @ weights.to(likely)).exp().cpu())
                tokens.append(found.topk(min(k, found.shape[1])).indices.cpu())
        return Likely(neurons, torch.cat(p), torch.cat(tokens))

    def chosen(self, read: Likely) -> list[Neuron]:
        """The likeliest ones."""
        return [read.neurons[i] for i in read.p.topk(min(self.s.count, len(read.p))).indices.tolist()]

    def _tokens(self) -> Tensor | None:
        """How much each token is of the concept, of 1 in all, [tokens]."""
        if self.concept is None:
            return None
        own, others = ([whole(one) for one in some] for some in (self.own, self.others))
        weights = tokens_of_concept(self.host, self.concept, own, others)
        return weights / weights.sum()
