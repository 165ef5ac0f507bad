"""Layers of the denoiser that are trained on runs of the model itself: all of a maker but its formula.

A formula asks the frozen model and the trained one about some conditions, and says how far apart the answers are to be.
States x_t come from guided runs of the concept's prompts, whose next step the formula's own predictions take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.generation.conditioning import Encoded, pick
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.known import check_known
from conceptguard.making.loop import Loop
from conceptguard.making.preview import previews
from conceptguard.making.templates import TEMPLATES, check_window
from conceptguard.making.terms import TermsInTraining, cut_to_rank, predictions
from conceptguard.making.walks import Walks
from conceptguard.method import Settings

from .trained_terms import TrainedTerms

if TYPE_CHECKING:
    from conceptguard.making.task import Learned, Task
    from conceptguard.protocols import Denoiser
    from conceptguard.runtime.lowrank import Factors

Layers = Literal["x", "u", "strict", "all"]
_BESIDE = (".add_k_proj", ".add_v_proj", ".context_embedder")  # what a transformer reads text with


class LayerSettings(Settings):
    """How layers are trained.

    layers: "x", those that read the text, for what a prompt has to name; "strict", of these the keys and values alone;
    "u", all others of the denoiser's blocks, for what pictures show unasked; "all", both
    rank: of the change, learnt as factors; null learns whole matrices
    steps, batch: optimiser steps for each concept, and states in each
    accumulate: so many times as many states in each step, one batch after the other, for little memory
    lr: of Adam
    trajectory_steps, guidance: of the runs that states are taken from
    templates: what the concept's prompts are put into, {} or with an article {a}
    """

    layers: Layers = "x"
    rank: int | None = Field(default=8, ge=1)
    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=4, ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    trajectory_steps: int = Field(default=12, ge=2)
    guidance: float = 3.0
    templates: list[str] = list(TEMPLATES)


@dataclass
class State:
    """Where the batch stands on its runs, and what either model says there.

    latents: [batch, channels, h, w]; times: [batch]; rows: which of the plan's texts each run is prompted with
    asked: these texts, and nothing: the empty prompt, as often, [batch, tokens, width]
    random: of every draw that a formula makes
    """

    denoiser: Denoiser
    terms: TermsInTraining
    latents: Tensor
    times: Tensor
    rows: list[int]
    asked: Encoded
    nothing: Encoded
    random: torch.Generator

    @torch.no_grad()
    def frozen(self, *conditions: Encoded) -> tuple[Tensor, ...]:
        """What the model as it was says of each condition, all in one pass: [batch, channels, h, w] each, float32."""
        return predictions(self.denoiser, self.terms, self.latents, self.times, *conditions, learnt=False)

    def trained(self, *conditions: Encoded) -> tuple[Tensor, ...]:
        """What it says with what was learnt, with gradients. After ``frozen``: gradients need the gates as they are."""
        return predictions(self.denoiser, self.terms, self.latents, self.times, *conditions, learnt=True)


# The loss of a state, and how the runs go on from it: what is predicted of (the prompt, the empty prompt).
Formula = Callable[[State], tuple[Tensor, tuple[Tensor, Tensor]]]
# (parameters, (which texts, one for each row) -> a state of unguarded runs) -> what gradients are multiplied by.
Mask = Callable[[Sequence[Tensor], Callable[[Sequence[int]], State]], list[Tensor]]


class Plan(NamedTuple):
    """own: texts of the concept, which runs are prompted with and a gate opens for; start: changes to begin with;
    also: prompts of the concept that were found; mask: which weights may move: whole matrices are learnt then, and cut
    to the rank afterwards; within: what the training stands in."""

    own: list[str]
    formula: Formula
    start: Mapping[str, Factors] = MappingProxyType({})
    also: Sequence[str] = ()
    mask: Mask | None = None
    within: Callable[[], AbstractContextManager[None]] = nullcontext


class TrainedLayers(TrainedTerms):
    """Terms beside the denoiser's layers, trained by a formula. Subclass, plan."""

    MakeSettings = LayerSettings
    previews = True

    @classmethod
    def plan(cls, task: Task) -> Plan:
        """The paper's formula, and what it is trained on."""
        raise NotImplementedError

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train to the end, from the last snapshot where there is one. Raises ArtifactError when the loss is no number,
        and when the model has no such layers."""
        task.check(task.settings.templates)
        check_known(task)
        plan = cls.plan(task)
        check_window(task.host, plan.own)
        found = _train(task, plan)
        return cls.learned(task, found.terms, plan.own, task.kept(task.settings.templates),
                           plan.also, started_at_step=found.first, loss=round(found.loss, 6), **found.cut)  # fmt: skip


class _Trained(NamedTuple):
    terms: dict[str, Factors]
    first: int
    loss: float
    cut: dict[str, float]


def layers_of(shapes: Mapping[str, tuple[int, ...]], which: Layers) -> list[str]:
    """Names of linear layers of the denoiser that ``which`` means. Raises ArtifactError when there are none.

    What reads text is cross-attention in a UNet; in a transformer, where text flows beside the picture, what makes
    keys and values of it, and what takes it in.
    """
    blocks = [
        n for n, shape in shapes.items() if len(shape) == 2 and n.startswith(("unet.", "transformer."))
        and (".attentions." in n or ".transformer_blocks." in n or n.endswith(".context_embedder")) and ".norm" not in n
    ]  # fmt: skip
    x = [n for n in blocks if ".attn2." in n or (n.startswith("transformer.") and n.endswith(_BESIDE))]
    strict = [n for n in x if n.endswith((".to_k", ".to_v", *_BESIDE))]
    found = {"x": x, "strict": strict, "u": [n for n in blocks if n not in set(x)], "all": blocks}[which]
    if not found:
        raise ArtifactError(f"this model has no layers '{which}' that terms are trained beside")
    return found


def _train(task: Task, plan: Plan) -> _Trained:
    s, host, denoiser = task.settings, task.host, task.host.denoiser()
    texts, nothing = EncodedTexts(host, plan.own), pick(host.encode([""]), [0] * s.batch)
    random = torch.Generator().manual_seed(task.seed)
    layers = host.layers()
    rank = None if plan.mask else s.rank
    terms = TermsInTraining(layers, layers_of(layers.shapes(), s.layers), rank, random, plan.start)
    steps = task.times(s.steps)
    walks = Walks(denoiser, len(plan.own), steps * s.accumulate, s.batch, s.trajectory_steps, random)
    snapshot = task.snapshot()

    def loss(number: int) -> Tensor:
        latents, times, rows = walks.at(number)
        state = State(denoiser, terms, latents, times, rows, texts.rows(rows), nothing, random)
        value, (towards, without) = plan.formula(state)
        walks.go_on(number, without + s.guidance * (towards.detach() - without.detach()))
        return value

    def some(rows: Sequence[int]) -> State:
        count, times = len(rows), torch.tensor(denoiser.timesteps(s.trajectory_steps))
        asked, empty = texts.rows(rows), pick(nothing, [0] * count)
        noise = torch.randn(count, *denoiser.shape, generator=random)
        terms.open(0)
        runs = denoiser.trajectories(noise, asked, empty, s.trajectory_steps, s.guidance)
        at = torch.randint(len(times), (count,), generator=random)
        return State(denoiser, terms, runs[at, range(count)], times[at], list(rows), asked, empty, random)

    with ExitStack() as meanwhile:
        meanwhile.enter_context(plan.within())
        parameters = meanwhile.enter_context(terms.attached([denoiser]))
        tick = meanwhile.enter_context(task.bar(steps))
        optimiser = torch.optim.Adam(parameters, lr=s.lr)
        masks = plan.mask(parameters, some) if plan.mask else ()
        reports = [tick, *task.reports, *previews(task, denoiser, terms.open)]
        loop = Loop(task.label, parameters, optimiser, random, steps, snapshot, also=[walks.latents],
                    reports=reports, accumulate=s.accumulate, masks=masks)  # fmt: skip
        ended = loop.run(loss)
        found = terms.changes()
    snapshot.remove()
    if plan.mask:
        found, error = cut_to_rank(found, s.rank)
        return _Trained(found, ended.first, ended.value, {"truncation_error": round(error, 4)})
    return _Trained(found, ended.first, ended.value, {})
