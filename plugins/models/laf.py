"""LAF: forgetting without labels, by what two autoencoders find ordinary.

L_UE = Σ_retain m_r / (m_r + 1) − Σ_forget m_f / (m_f + 1)        m: how badly an autoencoder gives features back
L_RA = −log( exp(cos(f(x), f₀(x)) / τ) / Σ_y exp(cos(f(x), f₀(y)) / τ) )        x, y: of what is retained

One variational autoencoder has learned the features f₀ of what is retained (m_r), another those of what is to be
forgotten (m_f). All but the head is trained by turns: what is retained stays ordinary, what is forgotten does not, and
each retained example keeps its features and no other's. Optionally the head is then repaired, which takes labels.

Shen et al., "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models", ICLR 2024. Features are
standardised before the autoencoders here, and the temperature is in the numerator as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .forgetting import ForgetSettings, Forgetting
from .lesson import Lesson


class LAFMakeSettings(ForgetSettings):
    """How features are moved. In brackets what the authors use.

    latent: size of what the autoencoders know of a feature [8 to 16]
    autoencoding: steps of their training [10 epochs]
    temperature: τ above
    steps, batch: optimiser steps, each a move and a return, and examples of either kind in each
    lr: of Adam [1e-5 to 1e-4]
    repair: steps that the head alone is trained on labels of what is retained, as LAF+R; 0: no label is ever read
    """

    latent: int = Field(default=16, ge=1)
    autoencoding: int = Field(default=200, ge=1)
    temperature: float = Field(default=0.2, gt=0)
    steps: int = Field(default=80, ge=1)
    batch: int = Field(default=48, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    repair: int = Field(default=40, ge=0)


class LAF(Forgetting):
    """Modules: moves a classifier's features away from what is to be forgotten; no label is needed."""

    name = "laf"
    MakeSettings = LAFMakeSettings

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above."""
        s, net = settings, lesson.net
        head = [one for one in net.modules() if isinstance(one, nn.Linear)][-1]
        read = _Reading(net, head)
        try:
            with torch.no_grad():
                before = torch.cat([read(part) for part in lesson.inputs.split(256)])
            middle, spread = before[lesson.retain].mean(0), before[lesson.retain].std(0).clamp_min(1e-3)
            plain = (before - middle) / spread
            kept, gone = (Autoencoder.fitted(plain[places], s, lesson.random)
                          for places in (lesson.retain, lesson.forget))  # fmt: skip
            body = [one for one in net.parameters() if all(one is not own for own in head.parameters())]

            def loss(step: int) -> Tensor:
                r, f = lesson.some(lesson.retain, s.batch), lesson.some(lesson.forget, s.batch)
                given, _ = lesson.seen(torch.cat([r, f]))
                features = read(given)
                ours, theirs = ((part - middle) / spread for part in features.split([len(r), len(f)]))
                moved = _bounded(kept.missed(ours)) - _bounded(gone.missed(theirs))
                alike = F.normalize(features[: len(r)], dim=1) @ F.normalize(before[r], dim=1).T / s.temperature
                return moved + F.cross_entropy(alike, torch.arange(len(r), device=alike.device))

            ended = lesson.tune(loss, s.steps, s.lr, body)
        finally:
            read.close()
        if s.repair:

            def named(step: int) -> Tensor:
                given, labels = lesson.seen(lesson.some(lesson.retain, 2 * s.batch))
                return F.cross_entropy(net(given), labels)

            lesson.tune(named, s.repair, s.lr, list(head.parameters()))
        return {"loss": round(ended.value, 4), "labels_read": bool(s.repair)}


class _Reading:
    """What the head reads of inputs, with gradients."""

    def __init__(self, net: nn.Module, head: nn.Module):
        self._net, self._given = net, torch.empty(0)
        self._handle = head.register_forward_pre_hook(self._keep)
        self.close: Callable[[], None] = self._handle.remove

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._given = given[0]

    def __call__(self, inputs: Tensor) -> Tensor:
        self._net(inputs)
        return self._given


class Autoencoder(nn.Module):
    """A variational autoencoder of features [n, width]."""

    def __init__(self, width: int, latent: int):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 2 * latent))
        self.decode = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, width))

    @classmethod
    def fitted(cls, features: Tensor, settings: Any, random: torch.Generator) -> Autoencoder:
        """One that has learned some features, frozen."""
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**31, (), generator=random)))
            own = cls(features.shape[1], settings.latent).to(features)
            optimiser = torch.optim.Adam(own.parameters(), 2e-3)
            for _ in range(settings.autoencoding):
                some = features[torch.randperm(len(features), generator=random)[:128]]
                mean, spread = own.encode(some).chunk(2, 1)
                given = own.decode(mean + torch.randn_like(mean) * (0.5 * spread).exp())
                surprise = 0.5 * (mean.pow(2) + spread.exp() - 1 - spread).mean()
                optimiser.zero_grad()
                (F.mse_loss(given, some) + 0.025 * surprise).backward()
                optimiser.step()
        return own.requires_grad_(False)

    def missed(self, features: Tensor) -> Tensor:
        """How badly each is given back, [n]."""
        mean, _ = self.encode(features).chunk(2, 1)
        return (self.decode(mean) - features).pow(2).mean(1)


def _bounded(missed: Tensor) -> Tensor:
    return (missed / (missed + 1)).mean()
