"""Train the autoencoder: four levels, f = 8, and cheap enough for a CPU.

At 128 px the outermost level costs more than all others together, so its residual blocks are left out of training and
are exact identities afterwards (second convolution zero).
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import models, processes
from .optimise import Optimiser


@dataclass(frozen=True)
class VaeRecipe:
    steps: int = 12_000
    batch: int = 6  # steps count for more than samples do
    warmup: int = 50
    kl: float = 1e-4
    kl_from: int = 1000  # a KL term from the first step on collapses the latents to nothing
    ema: float = 0.998
    noise_from: int = 300
    seed: int = 0
    compile: bool = True
    save_every: int = 500


class _Identity(torch.nn.Module):
    def forward(self, x: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        return x


def outer_blocks(vae: AutoencoderKL) -> list[tuple[torch.nn.ModuleList, int]]:
    """Where the residual blocks of the 128-px level sit."""
    down, up = vae.encoder.down_blocks[0].resnets, vae.decoder.up_blocks[-1].resnets
    return [(down, i) for i in range(len(down))] + [(up, i) for i in range(len(up))]


def without_outer_blocks(vae: AutoencoderKL) -> AutoencoderKL:
    for blocks, i in outer_blocks(vae):
        blocks[i] = _Identity()
    return vae


def with_outer_blocks(inner: dict[str, torch.Tensor]) -> AutoencoderKL:
    """A whole VAE that computes what `inner`, trained without outer blocks, computes."""
    vae = models.make_vae()
    for blocks, i in outer_blocks(vae):
        torch.nn.init.zeros_(blocks[i].conv2.weight)
        torch.nn.init.zeros_(blocks[i].conv2.bias)
    found = vae.load_state_dict(inner, strict=False)
    if found.unexpected_keys:
        raise ValueError(f"not weights of this VAE: {found.unexpected_keys[:3]}")
    return vae


def _upsample_nearest(x: torch.Tensor, scale_factor: float = 2.0, mode: str = "nearest", **_) -> torch.Tensor:
    b, c, h, w = x.shape
    x = x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)
    return x.contiguous(memory_format=torch.channels_last)


class compilable_upsampling:
    """torch 2.13's compiler gives F.interpolate(nearest) in bf16 a gradient of zero on CPUs: spell it out instead."""

    def __enter__(self) -> None:
        self.original, F.interpolate = F.interpolate, _upsample_nearest

    def __exit__(self, *_) -> None:
        F.interpolate = self.original


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in [-1, 1]."""
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 + four times MSE + half the L1 of image gradients (thin strokes) + three times that of block means."""
    e = y - x
    grad = (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
    colour = F.avg_pool2d(e, 8).abs().mean()
    mse = (e * e).mean()
    return e.abs().mean() + 4 * mse + 0.5 * grad + 3 * colour, mse


def psnr(mse: float) -> float:
    """dB, for images in [-1, 1]."""
    return 10 * math.log10(4 / mse)


def _loss(vae: AutoencoderKL, readout: torch.nn.Module, x: torch.Tensor, noise: torch.Tensor, kl_weight: torch.Tensor):
    with torch.autocast(x.device.type, torch.bfloat16):
        mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
        logvar = logvar.clamp(-12, 8)
        y = vae.decoder(vae.post_quant_conv(mean + torch.exp(0.5 * logvar) * noise))
    loss, mse = reconstruction_loss(y.float(), x)
    kl = 0.5 * (mean * mean + logvar.exp() - 1 - logvar).mean()
    # Left alone, strokes take all four latent channels and every picture is drawn on one axis from orange to blue.
    # Stable Diffusion's latents are nearly linear in the colour of their block; asking for that keeps the colours.
    colour = F.l1_loss(readout(mean), F.avg_pool2d(x, 8))
    return loss + 2 * colour + kl_weight * kl, mse, mean.std()


def train_vae(images: np.ndarray, recipe: VaeRecipe, work: Path) -> AutoencoderKL:
    """Trains on uint8 images [n, 128, 128, 3]; resumes from `work/vae.pt` if it is there."""
    processes.keep_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    vae = without_outer_blocks(models.make_vae())
    with torch.no_grad():
        # Start with little noise on the latents; with variance 1 the decoder learns to ignore them.
        vae.quant_conv.weight[4:].mul_(0.1)
        vae.quant_conv.bias[4:].fill_(-5)
        vae.quant_conv.weight[:4].mul_(3)
    vae = vae.to(device, memory_format=torch.channels_last)
    readout = torch.nn.Conv2d(4, 3, 1).to(device)
    params = [*vae.parameters(), *readout.parameters()]
    optim = Optimiser(params)
    mean = copy.deepcopy(vae).requires_grad_(False)
    step, elapsed, path = 0, 0.0, work / "vae.pt"
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        vae.load_state_dict(saved["vae"]), readout.load_state_dict(saved["readout"]), mean.load_state_dict(saved["ema"])
        optim.load_state_dict(saved["optim"])
        step, elapsed = saved["step"], saved["elapsed"]

    def save() -> None:
        state = dict(
            vae=vae.state_dict(), readout=readout.state_dict(), ema=mean.state_dict(), optim=optim.state_dict()
        )
        processes.save(dict(**state, step=step, elapsed=elapsed), path)

    data = torch.from_numpy(images)
    start, errors = time.time() - elapsed, []
    with compilable_upsampling():
        loss_fn = torch.compile(_loss) if recipe.compile else _loss
        while step < recipe.steps:
            elapsed, done = time.time() - start, step / recipe.steps
            rate = min(1, (step + 1) / recipe.warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
            gen = torch.Generator().manual_seed(recipe.seed * 10_000_019 + step)
            x = to_input(data[torch.randint(len(data), (recipe.batch,), generator=gen)]).to(device)
            noise = torch.randn(recipe.batch, 4, 16, 16, generator=gen) * float(step >= recipe.noise_from)
            kl = torch.tensor(recipe.kl if step >= recipe.kl_from else 0.01 * recipe.kl)
            loss, mse, std = loss_fn(vae, readout, x, noise.to(device), kl.to(device))
            optim.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optim.step(rate)
            step += 1
            decay = min(recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(mean.parameters()), list(vae.parameters()), 1 - decay)
            errors.append(mse.item())
            if step % 100 == 0:
                print(
                    f"step {step} {done:.1%} psnr {psnr(float(np.mean(errors))):.2f} latent std {std.item():.2f}",
                    flush=True,
                )
                errors = []
            if step % recipe.save_every == 0:
                save()
    save()
    return with_outer_blocks({k: v.float().cpu() for k, v in mean.state_dict().items()})


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 32) -> torch.Tensor:
    """Unscaled latent means [n, 4, 16, 16] of uint8 images [n, 128, 128, 3]."""
    vae = vae.to(memory_format=torch.channels_last)
    parts = (
        vae.encode(to_input(torch.from_numpy(images[i : i + batch])).to(vae.device)).latent_dist.mean.cpu()
        for i in range(0, len(images), batch)
    )
    return torch.cat(list(parts))


SCALING = 0.18215  # Stable Diffusion 1's scaling factor, which much code takes for granted


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: np.ndarray) -> AutoencoderKL:
    """Shift and scale each latent channel, in the convolutions around the latents, so that times ``SCALING`` it has
    mean 0 and variance 1 over ``images``. What the autoencoder makes of an image stays the same."""
    z = encode(vae, images)
    mean, gain = z.mean((0, 2, 3)), 1 / (SCALING * z.std((0, 2, 3)))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= gain[None, :, None, None]
    quant.weight[:4] *= gain[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) * gain
    quant.bias[4:] += 2 * gain.log()
    vae.register_to_config(scaling_factor=SCALING)
    return vae


@torch.no_grad()
def mean_psnr(vae: AutoencoderKL, images: np.ndarray, batch: int = 16) -> float:
    """Mean over images of the PSNR in dB of uint8 `images` after a round trip."""
    values = []
    for i in range(0, len(images), batch):
        x = to_input(torch.from_numpy(images[i : i + batch]))
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values += (10 * torch.log10(4 / ((y - x) ** 2).mean((1, 2, 3)))).tolist()
    return float(np.mean(values))
