"""Distil emoji-sd into a generator of one step: by its own pictures first, then by the distribution of them.

x = G(z, c), z pure noise. First ‖G(z, c) − x_T(z, c)‖², x_T the picture that the guided teacher draws of this noise: it
ends in blurred means. Then x goes where the guided teacher's score leads it away from the score of G's own pictures,
which a second network learns meanwhile (Yin et al., "One-step Diffusion with Distribution Matching Distillation", CVPR
2024), beside the first loss. All three are one set of weights, of which the latter two have low-rank changes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..emoji_sd import models
from .delta import Changed, quick

GUIDANCE, STEPS = 3.5, 12  # of the teacher's pictures: more steps change little in them
TIME = 624  # the noise level that the generator takes pure noise for; at 999 its output would be magnified 15 times


@dataclass(frozen=True)
class Recipe:
    """`minutes`: of the whole; drawing, matching: where in them the teacher's pictures are done, and the first loss."""

    minutes: float = 4.5
    drawing: float = 0.2
    matching: float = 0.55
    batch: int = 512
    rank: int = 16
    lr: float = 2e-3
    fake_lr: float = 1e-3
    fine_lr: float = 5e-4  # of the generator, once the distribution counts
    hold: float = 0.25  # weight of the first loss beside the second
    warmup: int = 100  # steps in which the second network learns alone
    ema: float = 0.995
    seed: int = 0


class Levels:
    """The noise schedule, [1000], on a device."""

    def __init__(self, device: torch.device):
        abar = models.alphas_cumprod().to(device)
        self.signal, self.noise = abar.sqrt(), (1 - abar).sqrt()

    def noised(self, clean: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return self._at(self.signal, t) * clean + self._at(self.noise, t) * eps

    def clean(self, state: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return (state - self._at(self.noise, t) * eps) / self._at(self.signal, t)

    @staticmethod
    def _at(values: Tensor, t: Tensor) -> Tensor:
        return values[t].view(-1, 1, 1, 1)


class Teacher:
    """The frozen network. empty: what the text encoder makes of no caption, [77, width]"""

    def __init__(self, unet: nn.Module, empty: Tensor, levels: Levels):
        self.unet, self.empty, self.levels = unet, empty.float(), levels

    @torch.no_grad()
    def guided(self, state: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """ε under guidance."""
        both = torch.cat([self.empty.expand_as(context), context])
        with quick(state):
            without, towards = self.unet(state.repeat(2, 1, 1, 1), t.repeat(2), both).sample.float().chunk(2)
        return without + GUIDANCE * (towards - without)

    @torch.no_grad()
    def draw(self, z: Tensor, context: Tensor, steps: int = STEPS) -> Tensor:
        """DDIM from noise to latents, on the timesteps that its pipeline has."""
        state, stride = z, 1000 // steps
        for step in reversed(range(steps)):
            now = torch.full((len(z),), step * stride + 1, device=z.device)
            eps = self.guided(state, now, context)
            clean = self.levels.clean(state, eps, now)
            state = self.levels.noised(clean, eps, (now - stride).clamp(min=0))
        return state


def generate(net: nn.Module, levels: Levels, z: Tensor, context: Tensor) -> Tensor:
    """One step, as a DDIM scheduler takes it whose schedule ends at ``TIME``."""
    at = torch.full((len(z),), TIME, device=z.device)
    return levels.clean(z, net(z, at, context), at)


class Distilling:
    """All that the phases share. context: of all captions, [n, 77, width]"""

    def __init__(self, unet: nn.Module, context: Tensor, empty: Tensor, recipe: Recipe):
        self.recipe, self.context = recipe, context
        device = context.device
        self.levels = Levels(device)
        self.teacher = Teacher(unet.requires_grad_(False), empty, self.levels)
        self.net = Changed(unet, recipe.rank, recipe.seed)
        self.fake = Changed(unet, recipe.rank, recipe.seed + 1)
        self.ema = copy.deepcopy(self.net.state_dict())
        fused = {"fused": True} if device.type == "cuda" else {}
        self.optim = torch.optim.AdamW(self.net.parameters(), recipe.lr, betas=(0.9, 0.99), weight_decay=0.0, **fused)
        self.fake_optim = torch.optim.AdamW(
            self.fake.parameters(), recipe.fake_lr, betas=(0.0, 0.99), weight_decay=0.0, **fused
        )
        self.random = torch.Generator(device).manual_seed(recipe.seed)
        self.noises: list[Tensor] = []  # of the teacher's pictures
        self.pictures: list[Tensor] = []
        self.asked: list[Tensor] = []
        self.start = time.time()

    def done(self) -> float:
        """The share of the time that is over."""
        return (time.time() - self.start) / (60 * self.recipe.minutes)

    def run(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All phases. Gives the generator's moving average after the first loss and at the end, as in ``Changed``."""
        recipe, first = self.recipe, True
        while first or self.done() < recipe.drawing:
            self._draw()
            first = False
        print(f"{sum(map(len, self.pictures))} of the teacher's pictures, {time.time() - self.start:.0f} s", flush=True)
        for one in ("noises", "pictures", "asked"):
            setattr(self, one, [torch.cat(getattr(self, one))])
        self._phase("match", recipe.matching, recipe.lr, self._match)
        matched = self._average()
        for _ in range(recipe.warmup):
            if self.done() < 1:
                self._follow(*self._some())
        self._phase("distribution", 1.0, recipe.fine_lr, self._distribute)
        return matched, self._average()

    def _average(self) -> dict[str, Tensor]:
        return {name: weight.cpu().half() for name, weight in self.ema.items()}

    def _phase(self, name: str, until: float, lr: float, loss: Callable[[], Tensor]) -> None:
        began, step, told = self.done(), 0, torch.zeros((), device=self.context.device)
        while (done := self.done()) < until:
            through = (done - began) / max(until - began, 1e-6)
            rate = min(1.0, (step + 1) / 50, 0.02 + 2 * (1 - through))
            for group in self.optim.param_groups:
                group["lr"] = lr * rate
            value = loss()
            self.optim.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optim.step()
            decay = min(self.recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                own = self.net.state_dict()
                torch._foreach_lerp_(list(self.ema.values()), list(own.values()), 1 - decay)
                told += value.detach()
            step += 1
            if step % 50 == 0:
                print(f"{name} step {step} {done:.1%} loss {float(told) / 50:.4f}", flush=True)
                told.zero_()
        print(f"{name}: {step} steps, {time.time() - self.start:.0f} s", flush=True)

    def _captions(self) -> Tensor:
        return torch.randint(len(self.context), (self.recipe.batch,), generator=self.random, device=self.context.device)

    def _noise(self) -> Tensor:
        own = self.teacher.unet.config
        shape = (self.recipe.batch, own.in_channels, own.sample_size, own.sample_size)
        return torch.randn(shape, generator=self.random, device=self.context.device)

    def _draw(self) -> None:
        z, which = self._noise(), self._captions()
        self.noises.append(z.half())
        self.asked.append(which)
        self.pictures.append(self.teacher.draw(z, self.context[which].float()).half())

    def _some(self) -> tuple[Tensor, Tensor]:
        """Noise, and what captions ask for."""
        return self._noise(), self.context[self._captions()].float()

    def _kept(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(noise, what captions ask for, what the teacher drew of both)."""
        noises, pictures, asked = (one[0] for one in (self.noises, self.pictures, self.asked))
        rows = torch.randint(len(noises), (count,), generator=self.random, device=noises.device)
        return noises[rows].float(), self.context[asked[rows]].float(), pictures[rows].float()

    def _match(self) -> Tensor:
        """How far the generator is from the teacher's pictures, of the same noise."""
        z, context, wanted = self._kept(self.recipe.batch)
        return F.mse_loss(generate(self.net, self.levels, z, context), wanted)

    def _distribute(self) -> Tensor:
        """Distribution matching, beside the first loss on a quarter as many; the second network steps before."""
        z, context = self._some()
        also, its, wanted = self._kept(max(1, len(z) // 4))
        every = generate(self.net, self.levels, torch.cat([z, also]), torch.cat([context, its]))
        drawn, matched = every[: len(z)], every[len(z) :]
        self._follow(z, context, drawn.detach())
        with torch.no_grad():
            t = torch.randint(20, 980, (len(z),), generator=self.random, device=z.device)
            state = self.levels.noised(drawn, self._noise(), t)
            real = self.levels.clean(state, self.teacher.guided(state, t, context), t)
            own = self.levels.clean(state, self.fake(state, t, context), t)
            size = (drawn - real).abs().mean((1, 2, 3), keepdim=True)
            goal = drawn - (own - real) / size.clamp(min=1e-3)
        return 0.5 * F.mse_loss(drawn, goal) + self.recipe.hold * F.mse_loss(matched, wanted)

    def _follow(self, z: Tensor, context: Tensor, drawn: Tensor | None = None) -> None:
        """One step of the network that knows the score of the generator's pictures."""
        if drawn is None:
            with torch.no_grad():
                drawn = generate(self.net, self.levels, z, context)
        t = torch.randint(1000, (len(z),), generator=self.random, device=z.device)
        eps = self._noise()
        loss = F.mse_loss(self.fake(self.levels.noised(drawn, eps, t), t, context), eps)
        self.fake_optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.fake.parameters(), 1.0)
        self.fake_optim.step()
