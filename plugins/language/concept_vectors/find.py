"""Finding: what a model's value vectors say, which say a concept, and which of them answers about it owe to."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, Search

from ..neurons.head import spelled
from .select import Choosing, Vectors


class ConceptVectorsFindSettings(Choosing):
    """How vectors are chosen, as in making, and what is shown.

    shown: how many rows
    tokens: how many tokens of each
    """

    shown: int = Field(default=12, ge=1)
    tokens: int = Field(default=8, ge=1)


def find_vectors(search: Search) -> Found:
    """Rows of vectors: layer, place, score through the head, tokens, and with examples what an answer loses without
    each. Raises PolicyError, BaseMismatch."""
    s = search.settings
    vectors = Vectors(search.host, search.concept, s, "concept_vectors")
    if vectors.own and search.concept is None:
        raise PolicyError("concept_vectors: forget: examples are about a concept: name it")
    neurons, scores, tokens = vectors.by_head(s.tokens)
    at = {neuron: i for i, neuron in enumerate(neurons)}

    def row(neuron: Any, **more: float) -> dict[str, Any]:
        i = at[neuron]
        return {"layer": neuron.layer, "place": neuron.place, **more, "score": round(scores[i], 3),
                "tokens": " ".join(spelled(search.host, tokens[i]))}  # fmt: skip

    if not vectors.own:
        best = sorted(neurons, key=lambda one: -scores[at[one]])[: s.shown]
        told = "by what they say alone; whether a model uses them, forget=examples.jsonl would tell"
        return Found([row(one) for one in best], told)
    chosen = vectors.chosen(search.bar)
    verdict = vectors.judge(chosen, search.seed)
    with search.bar(min(s.shown, len(chosen)), ", each alone", "nats lost") as tick:
        lost = vectors.lost(chosen[: s.shown], tick)
    told = f"{len(chosen)} of {len(neurons)} vectors, taken away together: {verdict.told()}"
    where: dict[str, int] = {}
    for one in chosen:
        where[f"layer_{one.layer}"] = where.get(f"layer_{one.layer}", 0) + 1
    figures = {"vectors": len(chosen), "of": len(neurons), "causal": verdict.causal, **where, **verdict.figures()}
    return Found([row(one, lost=round(by, 4)) for one, by in zip(chosen, lost)], told, figures)
