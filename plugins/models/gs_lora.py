"""GS-LoRA: requests to forget come one after another, and each gets low-rank terms in as few blocks as it needs.

β relu(BND − CE_forget) + CE_retain + α Σ_b ‖(A, B of block b)‖₂

The terms lie beside the feed-forward layers of a transformer's blocks; the last part makes whole blocks do nothing.
Each request is an artifact of its own, made while the earlier ones act, so that any can be left out of the policy.

Zhao et al., "Continual Forgetting for Pre-trained Vision Models", CVPR 2024; its prototypes (GS-LoRA++) are not here.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import write_beside
from conceptguard.making.task import Learned, Task
from conceptguard.making.terms import TermsInTraining
from conceptguard.runtime.lowrank import LayerIndex

from .earlier import put_in
from .forgetting import ForgetSettings, Forgetting, told
from .lesson import lesson_of

_BLOCK = re.compile(r"^model\.(.*?\d+)\.(.+)$")
_FEED_FORWARD = re.compile(r"(^|\.)(fc\d|mlp|ffn|lin\d|dense)(\.|$)|linear_?\d")


class GSLoRAMakeSettings(ForgetSettings):
    """How a request is learned. In brackets what the authors use.

    after: artifacts of earlier requests, which act meanwhile and go on acting
    rank: of the terms
    beta: weight of what forgets [0.15]
    bound: a loss above which nothing more is forgotten; by default 2 above that of guessing [about 105, of logits that
    a face recogniser scales by 64]
    alpha: weight of the blocks' sizes [1e-4 to 1e-2]
    steps, batch: optimiser steps, and examples of either kind in each
    lr: of Adam
    """

    after: list[str] = []
    rank: int = Field(default=8, ge=1)
    beta: float = Field(default=0.15, gt=0)
    bound: float | None = Field(default=None, gt=0)
    alpha: float = Field(default=1e-3, ge=0)
    steps: int = Field(default=150, ge=1)
    batch: int = Field(default=48, ge=1)
    lr: float = Field(default=1e-2, gt=0)


class GSLoRA(Forgetting):
    """Modules: a transformer forgets request after request, each in low-rank terms of its own that can be withdrawn."""

    name = "gs_lora"
    MakeSettings = GSLoRAMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """As above. Raises PolicyError for a module without numbered blocks of feed-forward layers, ArtifactError when
        the loss is no number."""
        s, lesson = task.settings, lesson_of(task)
        net = lesson.net.requires_grad_(False)
        put_in(net, s.after)
        layers = LayerIndex({"model": net})
        blocks = feed_forward(layers)
        if not blocks:
            raise PolicyError(f"{task.label}: {task.host.name} has no numbered blocks with feed-forward layers")
        # What earlier requests had forgotten is not to be remembered for the sake of this one.
        retain = lesson.retain[_known(net, lesson.inputs[lesson.retain], lesson.labels[lesson.retain])]
        bound = s.bound or math.log(len(lesson.examples.classes)) + 2
        names = [name for own in blocks.values() for name in own]
        terms = TermsInTraining(layers, names, s.rank, lesson.random)
        with terms.attached([]) as parameters:
            factors = dict(zip(names, zip(parameters[::2], parameters[1::2])))
            groups = [[one for name in own for one in factors[name]] for own in blocks.values()]

            def loss(step: int) -> Tensor:
                gone, kept = lesson.some(lesson.forget, s.batch), lesson.some(retain, s.batch)
                given, labels = lesson.seen(torch.cat([gone, kept]))
                terms.open(len(given))
                each = F.cross_entropy(net(given), labels, reduction="none")
                forgotten, held = each[: len(gone)].mean(), each[len(gone) :].mean()
                # Of the up factors alone: down factors do nothing by themselves, and begin at random.
                sizes = torch.stack([torch.stack([one.pow(2).sum() for one in own]).sum().sqrt() for own in groups])
                return s.beta * F.relu(bound - forgotten) + held + s.alpha * sizes.sum()

            ended = lesson.tune(loss, s.steps, s.lr, parameters)
            changes = {n: one for n, one in terms.changes().items() if bool(one.up.any())}
        if not changes:
            raise ArtifactError(f"{task.label}: nothing was learnt: give another lr (now {s.lr:g}), or more steps")
        tensors, metadata = write_beside(changes)
        sizes = {block: round(sum(float((changes[n].up @ changes[n].down).norm() ** 2) for n in own) ** 0.5, 3)
                 for block, own in blocks.items()}  # fmt: skip
        made = told(task, lesson, loss=round(ended.value, 4), blocks=sizes, remembered=len(retain))
        return Learned(tensors, made, metadata=metadata)


def feed_forward(layers: LayerIndex) -> dict[str, list[str]]:
    """The feed-forward layers of numbered blocks: a block's name -> its layers' names."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, layer in layers.items():
        match = _BLOCK.match(name)
        if match and isinstance(layer, nn.Linear) and _FEED_FORWARD.search(match[2]):
            found[match[1]].append(name)
    return dict(found)


@torch.no_grad()
def _known(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Places of examples that a model names rightly."""
    named = torch.cat([net(part).argmax(1) for part in inputs.split(256)])
    return (named == labels).nonzero()[:, 0]
