"""Neurons' vectors read as tokens, through the model's final norm and language-model head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conceptguard.concept import Concept

CHUNK = 512  # vectors whose scores of all tokens are in memory at once
PEAK = 10  # tokens that say what a vector is about, where nobody names a concept
_RARE = 0.02  # a token's share of texts below which none is told from another


class Read(NamedTuple):
    """Of n vectors. scores: [n]; tokens: the ids that each says loudest, [n, k]."""

    scores: Tensor
    tokens: Tensor


def through_head(host: Any, vectors: Tensor, weights: Tensor | None, normed: bool, k: int = PEAK) -> Read:
    """Vectors [n, width] as tokens.

    weights: [tokens], how much each token is of the concept: a vector's score is the mean of its tokens' scores so
    weighed, in standard deviations over the vocabulary; None: the mean of its k loudest. Raises BaseMismatch for a
    model without a head.
    """
    scores, tokens = [], []
    for begin in range(0, len(vectors), CHUNK):
        found = host.through_head(vectors[begin : begin + CHUNK], normed)
        found = (found - found.mean(1, keepdim=True)) / found.std(1, keepdim=True).clamp(min=1e-12)
        loud = found.topk(min(k, found.shape[1]), dim=1)
        scores.append(loud.values.mean(1) if weights is None else found @ weights.to(found) / weights.sum())
        tokens.append(loud.indices)
    return Read(torch.cat(scores).cpu(), torch.cat(tokens).cpu())


def tokens_of_concept(host: Any, concept: Concept, own: Sequence[str], others: Sequence[str]) -> Tensor:
    """How much each token of the tokenizer is of a concept, [tokens].

    By texts about it, and others: as much as it is likelier in its own. Without such texts, or where they tell nothing:
    the tokens of its prompts, each as much, after a space or without one, as they are fewer.
    """
    size = min(host.vocabulary_size, len(host.tokenizer))
    if own:
        mine, theirs = _shares(host, own, size), _shares(host, others, size)
        found = mine * ((mine + _RARE) / (theirs + _RARE)).log().clamp(min=0)
        if found.any():
            return found
    found = torch.zeros(size)
    for prompt in concept.prompts:
        ways = [host.tokenizer(text, add_special_tokens=False).input_ids for text in (f" {prompt}", prompt)]
        found[min(ways, key=len)] = 1.0
    return found


def _shares(host: Any, texts: Sequence[str], size: int) -> Tensor:
    """In what share of texts each token is."""
    found = torch.zeros(size)
    for text in texts:
        found[sorted(set(host.tokenizer(text, add_special_tokens=False).input_ids))] += 1.0
    return found / max(len(texts), 1)


def spelled(host: Any, ids: Sequence[int]) -> list[str]:
    """Tokens as they read, spaces around them left out."""
    return [host.tokenizer.decode([token]).strip() for token in ids]
