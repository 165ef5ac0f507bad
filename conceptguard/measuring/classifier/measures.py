"""Measures of forgetting in a classifier, each of tensors alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def logits_of(net: nn.Module, inputs: Tensor, chunk: int = 256) -> Tensor:
    """What a classifier says of inputs [n, ...]: [n, classes], float32 on the CPU."""
    first = next(net.parameters())
    return torch.cat([net(part.to(first)).float().cpu() for part in inputs.split(chunk)])


@torch.no_grad()
def features_of(net: nn.Module, inputs: Tensor, chunk: int = 256) -> Tensor:
    """What its last linear layer reads of them: [n, width]."""
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    found: list[Tensor] = []

    def read(module: Any, given: tuple[Tensor, ...]) -> None:
        found.append(given[0].float().cpu())

    handle = last.register_forward_pre_hook(read)
    try:
        logits_of(net, inputs, chunk)
    finally:
        handle.remove()
    return torch.cat(found)


def accuracy(logits: Tensor, labels: Tensor, places: Tensor) -> float:
    """Share of the examples at ``places`` whose class is named."""
    return float((logits[places].argmax(1) == labels[places]).double().mean())


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much each example's own logit is above the log-sum-exp of all others, [n]: log p / (1 - p)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The same as in KLOM, cut off at 100 either way."""
    return margin_of(logits, labels).clamp(-100, 100)


def auc(higher: Tensor, lower: Tensor) -> float:
    """How probably one of ``higher`` is above one of ``lower``, ties counted half."""
    compared = (higher[:, None] > lower[None]).double() + 0.5 * (higher[:, None] == lower[None]).double()
    return float(compared.mean())


def membership(own: Tensor, retrained: Tensor, members: Tensor, others: Tensor) -> float:
    """A calibrated membership attack: how much surer a model is of an example than models that never saw it.

    own [n], retrained [models, n]: margins; members, others: places of examples that it forgot, and that nobody saw.
    0.5 is what a model that never saw them gives; above, they are known for members; below, for having been removed.
    Watson et al., "On the Importance of Difficulty Calibration in Membership Inference Attacks", ICLR 2022.
    """
    surer = own - retrained.mean(0)
    return auc(surer[members], surer[others])


def probe(features: Tensor, labels: Tensor, train: Tensor, test: Tensor, ridge: float = 1e-2) -> float:
    """How many of the examples at ``test`` a linear probe names that was fitted on the features at ``train``: what the
    features still know, whatever the head says. Ridge regression on one-hot labels."""
    x = (features - features[train].mean(0)) / features[train].std(0).clamp_min(1e-6)
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    goal = torch.nn.functional.one_hot(labels[train]).double()
    gram = x[train].T @ x[train]
    weights = torch.linalg.solve(gram + ridge * len(train) * torch.eye(len(gram)).double(), x[train].T @ goal)
    return float(((x[test] @ weights).argmax(1) == labels[test]).double().mean())
