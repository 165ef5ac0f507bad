"""Train emoji-gan: first to draw what each latent says, then against a discriminator as well.

G: λ |G(z) − x|₁ + softplus(D(x) − D(G(z)))        D: softplus(D(G(z)) − D(x)) + γ/2 (|∇D(x)|² + |∇D(G(z))|²)

x is the view that z describes, so that the two that a discriminator compares show the same thing (the relativistic loss
and both penalties of Huang et al., "The GAN is dead; long live the GAN!", NeurIPS 2024). With the first term alone
pictures are soft; without it five minutes are too few for as many classes.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from conceptguard.hosts.modules.generator import Generator

from .tiles import VIEW, views


@dataclass(frozen=True)
class Recipe:
    """minutes: by the clock; batch: pictures in a step; lr: of both nets, falling to nothing; alone: share of the time
    before the discriminator is heard; weight, penalty: λ and γ; lazy: steps between penalties"""

    minutes: float = 23.0
    batch: int = 16
    lr: float = 2e-3
    alone: float = 0.75
    weight: float = 30.0
    penalty: float = 1.0
    lazy: int = 8
    seed: int = 83_000  # far from those of judges and encoders


class Discriminator(nn.Module):
    """How real a picture [n, 3, 64, 64] looks as one of an object in a style: [n] (Miyato and Koyama, ICLR 2018)."""

    def __init__(self, objects: int, styles: int, width: int = 48):
        super().__init__()
        sizes = [width, 2 * width, 3 * width, 4 * width]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for a, b in zip(sizes, [*sizes[1:], sizes[-1]]):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1] * 16, 256), nn.LeakyReLU(0.2))
        self.objects, self.styles = nn.Embedding(objects, 256), nn.Embedding(styles, 256)
        self.real = nn.Linear(256, 1)

    def forward(self, pictures: Tensor, objects: Tensor, styles: Tensor) -> Tensor:
        """As above."""
        seen = self.body(pictures * 2 - 1)
        return self.real(seen)[:, 0] + (seen * (self.objects(objects) + self.styles(styles))).mean(1)


def train(sheet: Tensor, recipe: Recipe, device: torch.device, start: nn.Module | None = None) -> Generator:
    """Gives the mean of the last steps' generators, on the CPU. sheet: [objects, styles, 3, h, w]; start: what it
    begins with, else at random."""
    torch.manual_seed(recipe.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    objects, styles = sheet.shape[:2]
    net, other = Generator(objects, styles, VIEW).to(device), Discriminator(objects, styles).to(device)
    if start is not None:
        net.load_state_dict(start.state_dict())
    mean = copy.deepcopy(net).requires_grad_(False)
    fused = {"fused": device.type == "cuda"}
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.lr, betas=(0.9, 0.99), **fused)
    against = torch.optim.Adam(other.parameters(), lr=recipe.lr / 2, betas=(0.0, 0.99), **fused)
    sheet = sheet.to(device)
    begun, step, done = time.monotonic(), 0, 0.0
    bar = tqdm(total=round(recipe.minutes * 60), desc="emoji-gan", unit="s", mininterval=10)
    while done < 1:
        rate = recipe.lr * min(1.0, (step + 1) / 100, 0.02 + math.cos(math.pi / 2 * done))
        optimiser.param_groups[0]["lr"], against.param_groups[0]["lr"] = rate, rate / 2
        labels = tuple(torch.randint(n, (recipe.batch,), device=device) for n in (objects, styles))
        latents = torch.randn(recipe.batch, VIEW, device=device)
        real = views(sheet[labels].float() / 255, latents)
        drawn = net(latents, *labels)
        loss = recipe.weight * F.l1_loss(drawn, real)
        if done > recipe.alone:
            _discriminate(other, against, real, drawn.detach(), labels, recipe if step % recipe.lazy == 0 else None)
            other.requires_grad_(False)
            loss = loss + F.softplus(other(real, *labels) - other(drawn, *labels)).mean()
            other.requires_grad_(True)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            kept = min(0.998, step / (step + 10))
            torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - kept)
        step += 1
        if step % 20 == 0 or device.type == "cpu":
            if device.type == "cuda":
                torch.cuda.synchronize()  # or steps are queued long past the time
            done = (time.monotonic() - begun) / (recipe.minutes * 60)
            bar.n = round(min(1.0, done) * bar.total)
            bar.refresh()
            if step % 500 == 0:
                bar.set_postfix(step=step, loss=f"{float(loss.detach()):.3f}")
    bar.close()
    print(f"{step} steps", flush=True)
    return mean.cpu().eval()


def _discriminate(
    other: nn.Module, against: torch.optim.Optimizer, real: Tensor, drawn: Tensor, labels: tuple[Tensor, ...],
    recipe: Recipe | None,
) -> None:  # fmt: skip
    """One step of the discriminator, with penalties where a recipe is given."""
    if recipe:
        real, drawn = real.detach().requires_grad_(), drawn.requires_grad_()
    said, of_drawn = other(real, *labels), other(drawn, *labels)
    loss = F.softplus(of_drawn - said).mean()
    if recipe:
        slopes = torch.autograd.grad(said.sum() + of_drawn.sum(), [real, drawn], create_graph=True)
        sizes = sum(one.square().sum((1, 2, 3)).mean() for one in slopes)
        loss = loss + recipe.lazy * recipe.penalty / 2 * sizes
    against.zero_grad()
    loss.backward()
    against.step()
