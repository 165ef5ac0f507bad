"""D2DGN: a net over a graph forgets edges, taught by itself what to keep and by a stranger what to forget.

α (KL and MSE of logits + MSE of embeddings, to the net as it was)
+ (1 − α) MSE of the deleted edges' logits, to a teacher that does not know them

Both are asked with the deleted edges out of the graph. The paper's second teacher is an untrained net. Where pairs that
are no edges have low logits, as in nets that predict links, edges with an untrained net's logits stand out among these.
The default teacher is the net itself, asked about as many pairs that are none. Both are compared in order of size, so
that deleted edges are as likely as these on the whole, and nothing tells the two apart.

Sinha, Mandal and Kankanhalli, "Distill to Delete: Unlearning in Graph Networks with Knowledge Distillation" (arXiv
2309.16173), of which no code is known: which pairs either term runs on, and α, are ours, and that embeddings
alone are learnt.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making.links import named, others
from conceptguard.making.loop import Loop
from conceptguard.making.task import Learned, Task
from conceptguard.method import Settings

from .forgetting import Forgetting, changed
from .lesson import classifier_of


class D2DGNMakeSettings(Settings):
    """How both teachers are learned from.

    teacher: of what is forgotten: "stranger", the net itself about pairs that are no edges; "untrained", the paper's
    alpha: weight of what is kept
    rows: emoji whose links to all keywords are compared in each step
    steps: passes over the graph; lr: of Adam, falling to nothing
    """

    teacher: Literal["stranger", "untrained"] = "stranger"
    alpha: float = Field(default=0.5, gt=0, lt=1)
    rows: int = Field(default=16, ge=2)
    steps: int = Field(default=200, ge=1)
    lr: float = Field(default=2e-2, gt=0)


class D2DGN(Forgetting):
    """Modules: a net over a graph forgets edges, taught by itself what to keep and by a stranger what to forget."""

    name = "d2dgn"
    MakeSettings = D2DGNMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """As above. Raises PolicyError for a module that predicts no links, in training mode, and for edges that the
        graph does not have, none or all of them; ArtifactError where nothing changed or a loss is no number."""
        s, before = task.settings, _links(task)
        forget, retain = named(before, task.concept.prompts)
        random = torch.Generator().manual_seed(task.seed)
        net = copy.deepcopy(before).requires_grad_(True)
        with torch.no_grad():
            # What is kept has the whole graph to learn from, what is forgotten a graph without it.
            was = before.embedded()
            every = torch.cat([forget, retain])
            untrained = _untrained(before, task.seed)
            strange = untrained.between(untrained.embedded(retain), forget)
            known = before.between(was, retain)
            ends = torch.zeros(len(was), dtype=torch.bool, device=was.device)
            ends[forget[:, 0]] = ends[forget[:, 1] + len(before.emoji)] = True
            near, words = forget[:, 0].unique(), torch.arange(len(before.keywords), device=was.device)

        def loss(step: int) -> Tensor:
            embedded = net.embedded(retain)
            # Half of them where edges are deleted, with all that they are linked to or might be.
            some = torch.randint(len(before.emoji), (s.rows,), generator=random).to(words)
            some[: s.rows // 2] = near[torch.randint(len(near), (s.rows // 2,), generator=random).to(words)]
            pairs = torch.cartesian_prod(some, words)
            pairs = pairs[~torch.isin(pairs[:, 0] * len(words) + pairs[:, 1], forget[:, 0] * len(words) + forget[:, 1])]
            kept = F.mse_loss(net.between(embedded, pairs), before.between(was, pairs))
            kept = kept + _kl(known, net.between(embedded, retain)) + F.mse_loss(embedded[~ends], was[~ends])
            said = net.between(embedded, forget)
            if s.teacher == "stranger":
                # In order of size: which edge takes the place of which pair does not matter.
                none = net.between(embedded, others(forget, every, len(before.emoji), random)).detach()
                gone = F.mse_loss(said.sort().values, none.sort().values)
            else:
                gone = F.mse_loss(said, strange)
            return s.alpha * kept + (1 - s.alpha) * gone

        own = _tables(net)
        optimiser = torch.optim.Adam(own, lr=s.lr)
        with task.bar(s.steps) as tick:
            loop = Loop(task.label, own, optimiser, random, s.steps, reports=[tick, *task.reports],
                        rate=lambda step: s.lr * (1 - step / s.steps))  # fmt: skip
            ended = loop.run(loss)
        tensors = changed(before, net)
        if not tensors:
            raise ArtifactError(f"{task.label}: nothing was changed: give other settings")
        return Learned(tensors, task.made(seed=task.seed, forgotten=len(forget), retained=len(retain),
                                          loss=round(ended.value, 4)))  # fmt: skip


def _links(task: Task) -> Any:
    """The module of a task. Raises PolicyError for one that predicts no links."""
    model = classifier_of(task)
    if not all(hasattr(model, part) for part in ("edges", "embedded", "between", "matching")):
        raise PolicyError(
            f"{task.label}: {task.host.name} predicts no links: it needs edges, embedded, between and matching, as "
            "emoji-graph has them"
        )
    return model


def _tables(net: nn.Module) -> list[Tensor]:
    """Embeddings of nodes, where a net has some, since convolutions serve all nodes; else everything."""
    found: list[Tensor] = [one.weight for one in net.modules() if isinstance(one, nn.Embedding)]
    return found or list(net.parameters())


def _untrained(net: Any, seed: int) -> Any:
    """A net of the same kind that never learned anything."""
    fresh = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return fresh


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean divergence of what two logits say of an edge."""
    p = teacher.sigmoid()
    return (p * (F.logsigmoid(teacher) - F.logsigmoid(student))
            + (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))).mean()  # fmt: skip
