"""Finding: what moves a model's neurons, in its own words, and which of them is a concept's."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, Search

from ..neurons.head import spelled
from .select import FeatureNeurons, Reading


class FeatureNeuronsFindSettings(Reading):
    """How neurons are chosen, as in making, and what is shown.

    shown: how many rows
    tokens: how many tokens of each
    """

    shown: int = Field(default=12, ge=1)
    tokens: int = Field(default=8, ge=1)


def find_neurons(search: Search) -> Found:
    """Rows of neurons: layer, place, probability of the concept's tokens, the likeliest tokens, and with examples what
    an answer loses without each. Raises PolicyError, BaseMismatch."""
    s = search.settings
    found = FeatureNeurons(search.host, search.concept, s, "feature_neurons")
    if found.own and search.concept is None:
        raise PolicyError("feature_neurons: forget: examples are about a concept: name it")
    read = found.read(s.tokens)
    best = read.p.topk(min(s.shown, len(read.p))).indices.tolist()

    def row(i: int, **more: float) -> dict[str, Any]:
        neuron = read.neurons[i]
        return {"layer": neuron.layer, "place": neuron.place, **more, "p": round(float(read.p[i]), 4),
                "tokens": " ".join(spelled(search.host, read.tokens[i].tolist()))}  # fmt: skip

    if not found.own:
        return Found([row(i) for i in best], "by what they read as alone; whether answers come from them, "
                     "forget=examples.jsonl would tell")  # fmt: skip
    chosen = found.chosen(read)
    verdict = found.judge(chosen, search.seed)
    with search.bar(len(best), ", each alone", "nats lost") as tick:
        lost = found.lost([read.neurons[i] for i in best], tick)
    told = f"{len(chosen)} of {len(read.neurons)} neurons, silenced together: {verdict.told()}"
    figures = {"neurons": len(chosen), "of": len(read.neurons), "causal": verdict.causal, **verdict.figures()}
    return Found([row(i, lost=round(by, 4)) for i, by in zip(best, lost)], told, figures)
