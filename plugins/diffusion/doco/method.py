"""Doco: what the model predicts of a concept is trained until nobody can tell it from what it predicts of an anchor.

min_D  BCE(D(x̂₀(x_a, c_a; θ₀)), anchor) + BCE(D(x̂₀(x_f, c_f; θ)), concept)
min_θ  BCE(D(x̂₀(x_f, c_f; θ)), anchor), by its gradient without what goes against that of ‖ε_θ(x_r, c_r) − ε‖²

x_a, x_f, x_r: pictures of the anchor, the concept and what stays, with noise ε; x̂₀: the clean picture predicted there.

Wu et al., "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving Gradient",
AAAI 2025.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from conceptguard.generation.conditioning import stack
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.known import check_known
from conceptguard.making.loop import Gradients, Loop, without_conflict
from conceptguard.making.noising import clean
from conceptguard.making.preview import previews
from conceptguard.making.shots import Shots
from conceptguard.making.templates import TEMPLATES, check_window
from conceptguard.making.terms import TermsInTraining, predictions
from conceptguard.method import Settings

from ..trained_layers import Layers, layers_of
from ..trained_terms import TrainedTerms
from .discriminator import ANCHOR, CONCEPT, patch_discriminator, right, taken_for

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Learned, Task


TOLD_OVER = 20  # steps, the last ones


class DocoMakeSettings(Settings):
    """How layers and discriminator are trained. In brackets what the authors' repository uses where it differs.

    layers: which of the denoiser's layers, as for esd
    rank: of the change, learnt as factors; null learns whole matrices [whole]
    shots: pictures that the model draws for each concept, of it, of its anchor and of what stays [1000]
    noisiest: share of the schedule up to which predictions are compared; beyond, they say nothing of a picture [1]
    steps: optimiser steps for each concept [2000]
    warmup: of all steps, so many train the discriminator alone [1000]
    batch: pictures of each kind in a step [8]
    lr: of the layers [6e-6 times the batch]
    discriminator_lr, width: of what tells them apart, and channels of its first layer [1e-4, 5e-5 for styles, and 64]
    templates: what the concept's prompts are put into, {} or with an article {a}
    compat: "paper", or "official" for what the authors' repository does where it projects: matrix by matrix, by a
    cosine alone; without the loss of what stays; and a discriminator that also takes the step that fools it
    """

    layers: Layers = "strict"
    rank: int | None = Field(default=8, ge=1)
    shots: int = Field(default=12, ge=1)
    noisiest: float = Field(default=0.9, gt=0, le=1)
    steps: int = Field(default=140, ge=1)
    warmup: int = Field(default=40, ge=0)
    batch: int = Field(default=6, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    discriminator_lr: float = Field(default=1e-3, gt=0)
    width: int = Field(default=32, ge=1)
    templates: list[str] = list(TEMPLATES)
    compat: Literal["paper", "official"] = "paper"

    @model_validator(mode="after")
    def _layers_have_their_turn(self) -> DocoMakeSettings:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup {self.warmup} leaves none of {self.steps} steps to train layers in: give more")
        return self


class Doco(TrainedTerms):
    """Pictures: layers trained until predictions of a concept cannot be told from predictions of an anchor.

    Terms beside the denoiser's layers, gated by the prompt. The anchor is ``Task.anchor``.
    """

    name = "doco"
    several = True
    MakeSettings = DocoMakeSettings
    previews = True

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train both. Raises ArtifactError when a loss is no number."""
        s, host, denoiser, steps = task.settings, task.host, task.host.denoiser(), task.times(task.settings.steps)
        task.check(s.templates)
        check_known(task)
        own, kept = task.own(s.templates), task.kept(s.templates)
        check_window(host, [*own, *kept])
        nothing, random = host.encode([""]), torch.Generator().manual_seed(task.seed)
        layers = host.layers()
        terms = TermsInTraining(layers, layers_of(layers.shapes(), s.layers), s.rank, random)
        anchored = task.instead(s.templates, task.anchor)
        texts = [EncodedTexts(host, some) for some in (own, anchored, kept or [""])]
        shots = [Shots.drawn(denoiser, some, nothing, task.times(s.shots), random) for some in texts]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            judge = patch_discriminator(denoiser.shape[0], s.width).to(denoiser.device)
        snapshot, said = task.snapshot(), partial(predictions, denoiser, terms)
        told: deque[float] = deque(maxlen=TOLD_OVER)

        def gradients(step: int) -> Gradients:
            target, reference, stays = (some.some(s.batch, s.noisiest) for some in shots)
            asked, meant, others = (t.rows(now.texts) for t, now in zip(texts, (target, reference, stays)))
            with torch.no_grad():
                (expected,) = said(reference.latents, reference.times, meant, learnt=False)
                anchors = clean(denoiser, reference.latents, expected, reference.times)
            both = target.above(stays)
            (every,) = said(both.latents, both.times, stack(asked, others), learnt=True)
            taken, held = every.chunk(2)
            shown = clean(denoiser, target.latents, taken, target.times)
            real, fake = judge(anchors), judge(shown.detach())
            told.append(right(real, fake))
            tells = taken_for(real, ANCHOR) + taken_for(fake, CONCEPT)
            own_part = list(torch.autograd.grad(tells, list(judge.parameters())))
            fooled = taken_for(judge(shown), ANCHOR)
            if step < s.warmup:
                return Gradients(float(fooled.detach()), [*(torch.zeros_like(p) for p in learnt), *own_part])
            away = torch.autograd.grad(fooled, learnt, retain_graph=True)
            keep = torch.autograd.grad(F.mse_loss(held, stays.wanted), learnt, retain_graph=s.compat == "official")
            if s.compat == "official":
                step_of = adjusted(away, keep)
                own_part = [
                    own + more for own, more in zip(own_part, torch.autograd.grad(fooled, list(judge.parameters())))
                ]
            else:
                step_of = [a + k for a, k in zip(without_conflict(away, keep), keep)]
            return Gradients(float(fooled.detach()), [*step_of, *own_part])

        with terms.attached([denoiser]) as learnt, task.bar(steps) as tick:
            groups = [{"params": learnt}, {"params": list(judge.parameters()), "lr": s.discriminator_lr}]
            optimiser = torch.optim.Adam(groups, lr=s.lr, betas=(0.5, 0.999))
            loop = Loop(task.label, [*learnt, *judge.parameters()], optimiser, random, steps, snapshot,
                        reports=[tick, *task.reports, *previews(task, denoiser, terms.open)])  # fmt: skip
            ended = loop.run(gradients)
            found = terms.changes()
        snapshot.remove()
        return cls.learned(task, found, own, kept, anchor=task.anchor, told_apart=round(sum(told) / len(told), 4),
                           started_at_step=ended.first, loss=round(ended.value, 6))  # fmt: skip


def adjusted(own: Sequence[Tensor], held: Sequence[Tensor]) -> list[Tensor]:
    """The repository's surgery, of each matrix a for itself: a − min(0, cos(a, b)) b / ‖b‖, which lacks ‖a‖ and is no
    projection."""
    found = []
    for a, b in zip(own, held):
        along = b / (b.norm() + 1e-8)
        found.append(a - min(0.0, float((a / (a.norm() + 1e-8) * along).sum())) * along)
    return found
