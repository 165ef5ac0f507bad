"""SalUn: the weights that matter most for a concept, and they alone, learn to take it for another one.

m = the share of weights with the largest |∂ ‖ε − ε̃₀(x_f, c_f)‖² / ∂W|        ε̃: under guidance
ε_θ(x_f, c_f)  ←  ε₀(x_f, c_a)      and      ε_θ(x_r, c_r)  ←  ε      by m ⊙ gradient

x_f, x_r: pictures of the concept and of what stays, with noise ε; c_a: the anchor, what the concept is taken for.

Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and
Generation", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.generation.conditioning import pick, stack
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.known import check_known
from conceptguard.making.loop import Loop
from conceptguard.making.preview import previews
from conceptguard.making.shots import Shots
from conceptguard.making.templates import TEMPLATES, check_window
from conceptguard.making.terms import TermsInTraining, cut_to_rank, predictions
from conceptguard.method import Settings

from .trained_layers import Layers, layers_of
from .trained_terms import TrainedTerms

if TYPE_CHECKING:
    from conceptguard.making.task import Learned, Task


class SalUnMakeSettings(Settings):
    """How the weights are chosen and trained. In brackets what the authors' repository uses where it differs.

    share: of the weights, those that may move
    layers: which of the denoiser's linear layers, as for esd [all weights, convolutions as well]
    rank: of the change that is kept; null keeps it whole
    shots: pictures that the model draws for each concept, of it and of what stays [a thousand of a dataset's class]
    views: pictures with noise on them that weights are chosen by; guidance: of the predictions there [7.5]
    steps, batch: optimiser steps for each concept, and pictures of each kind in a step [5 epochs, 8]
    lr: of Adam [1e-5]
    alpha: weight of what stays [0.1, and 0.5 in its instructions]
    anchor_by: the frozen model says what the anchor looks like, or the one that is being trained [trained]
    compat: "paper", or "official" for the authors' repository, which counts guidance once more: (1 + w) ε_c − w ε_∅
    templates: what the concept's prompts are put into, {} or with an article {a}
    """

    share: float = Field(default=0.5, gt=0, le=1)
    layers: Layers = "all"
    rank: int | None = Field(default=None, ge=1)
    shots: int = Field(default=12, ge=1)
    views: int = Field(default=32, ge=1)
    guidance: float = 7.5
    steps: int = Field(default=150, ge=1)
    batch: int = Field(default=4, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    alpha: float = Field(default=0.5, ge=0)
    anchor_by: Literal["frozen", "trained"] = "frozen"
    compat: Literal["paper", "official"] = "paper"
    templates: list[str] = list(TEMPLATES)


def salient(gradients: list[Tensor], share: float) -> list[Tensor]:
    """1 where a weight's gradient is among the largest of all these layers together, else 0."""
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients])
    # Not ``quantile``, which takes no more than 16 million numbers.
    least = sizes.kthvalue(max(1, round((1 - share) * len(sizes)))).values if share < 1 else sizes.new_tensor(-1.0)
    return [(gradient.abs() > least).to(gradient) for gradient in gradients]


def guided_by(settings: SalUnMakeSettings, towards: Tensor, without: Tensor) -> Tensor:
    """The guided prediction by which weights are chosen."""
    return without + (settings.guidance + (settings.compat == "official")) * (towards - without)


def relearnt(taken: Tensor, goal: Tensor, held: Tensor, wanted: Tensor, alpha: float) -> Tensor:
    """What is said of the concept against the anchor's, and ``alpha`` times of what stays against its noise."""
    return F.mse_loss(taken, goal) + alpha * F.mse_loss(held, wanted)


class SalUn(TrainedTerms):
    """Pictures: of the denoiser's weights those that matter most for a concept, trained to take it for another one.

    Terms beside the denoiser's layers, gated by the prompt. The anchor is ``Task.anchor``: where no replacement is
    given, something to preserve, as the authors take the next class.
    """

    name = "salun"
    several = True
    MakeSettings = SalUnMakeSettings
    previews = True

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Choose the weights and train them. Raises ArtifactError when the loss is no number."""
        s, host, denoiser, steps = task.settings, task.host, task.host.denoiser(), task.times(task.settings.steps)
        task.check(s.templates)
        check_known(task)
        own, kept = task.own(s.templates), task.kept(s.templates)
        check_window(host, [*own, *kept])
        texts, others = EncodedTexts(host, own), EncodedTexts(host, kept or [""])
        anchors, nothing = EncodedTexts(host, task.instead(s.templates, task.anchor)), host.encode([""])
        random = torch.Generator().manual_seed(task.seed)
        layers = host.layers()
        terms = TermsInTraining(layers, layers_of(layers.shapes(), s.layers), None, random)
        forget, retain = (Shots.drawn(denoiser, some, nothing, task.times(s.shots), random) for some in (texts, others))
        snapshot, said = task.snapshot(), partial(predictions, denoiser, terms)

        def guided() -> Tensor:
            """What is wrong about the prediction, under guidance, of pictures of the concept."""
            now = forget.some(s.batch)
            asked, empty = texts.rows(now.texts), pick(nothing, [0] * s.batch)
            towards, without = said(now.latents, now.times, asked, empty, learnt=True)
            return F.mse_loss(guided_by(s, towards, without), now.wanted)

        def loss(_: int) -> Tensor:
            now, stays = forget.some(s.batch), retain.some(s.batch)
            with torch.no_grad():
                meant = anchors.rows(now.texts)
                (goal,) = said(now.latents, now.times, meant, learnt=s.anchor_by == "trained")
            both, asked = now.above(stays), stack(texts.rows(now.texts), others.rows(stays.texts))
            (every,) = said(both.latents, both.times, asked, learnt=True)
            taken, held = every.chunk(2)
            return relearnt(taken, goal, held, stays.wanted, s.alpha)

        with terms.attached([denoiser]) as parameters, task.bar(steps) as tick:
            masks = salient(_gradients(parameters, guided, -(-s.views // s.batch)), s.share)
            loop = Loop(task.label, parameters, torch.optim.Adam(parameters, lr=s.lr), random, steps, snapshot,
                        masks=masks, reports=[tick, *task.reports, *previews(task, denoiser, terms.open)])  # fmt: skip
            ended = loop.run(loss)
            found = terms.changes()
        snapshot.remove()
        kept_terms, error = cut_to_rank(found, s.rank)
        return cls.learned(task, kept_terms, own, kept, anchor=task.anchor, truncation_error=round(error, 4),
                           started_at_step=ended.first, loss=round(ended.value, 6))  # fmt: skip


def _gradients(parameters: list[Tensor], loss: Callable[[], Tensor], times: int) -> list[Tensor]:
    """Of each parameter, summed over the losses."""
    found = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(times):
        for total, gradient in zip(found, torch.autograd.grad(loss(), parameters)):
            total += gradient
    return found
