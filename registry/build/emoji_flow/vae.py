"""The autoencoder: emoji-sd's, its four latent channels spread over sixteen, and trained on with the room they give.

So a twelfth of emoji-sd's training is enough. Its four stay the loudest of what the latents say, and the other
directions take the strokes that four could not.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from ..emoji_sd.optimise import Optimiser
from ..emoji_sd.vae import (
    compilable_upsampling,
    encode,
    outer_blocks,
    psnr,
    reconstruction_loss,
    to_input,
    without_outer_blocks,
)
from . import models


@dataclass(frozen=True)
class VaeRecipe:
    steps: int = 1000
    batch: int = 6
    lr: float = 0.005  # of Muon: a quarter of what emoji-sd's began with
    warmup: int = 50
    kl: float = 1e-4
    ema: float = 0.995
    seed: int = 0
    compile: bool = True
    save_every: int = 250


@torch.no_grad()
def spread(theirs: AutoencoderKL, seed: int = 0) -> AutoencoderKL:
    """emoji-sd's autoencoder with 16 latent channels: what it makes of a picture is the same but for the margin.

    Its scaled latents are turned by a random orthonormal [16, 4], so that no channel is empty. The convolutions around
    them, which SD 3 does not have, go into their neighbours.
    """
    vae, given, scale = models.make_vae(), theirs.state_dict(), theirs.config.scaling_factor
    quant, quant_bias = given.pop("quant_conv.weight")[:4, :, 0, 0].float(), given.pop("quant_conv.bias")[:4].float()
    post, post_bias = given.pop("post_quant_conv.weight")[:, :, 0, 0].float(), given.pop("post_quant_conv.bias").float()
    turn = torch.linalg.qr(torch.randn(models.CHANNELS, 4, generator=torch.Generator().manual_seed(seed))).Q
    # The decoder's bias moves to the encoder's side, where no margin of zeros stands behind it.
    into, bias = scale * turn @ quant, scale * turn @ (quant_bias + torch.linalg.solve(post, post_bias))
    out, out_bias = given["encoder.conv_out.weight"].float(), given["encoder.conv_out.bias"].float()
    silent = torch.zeros(models.CHANNELS, *out.shape[1:])  # the log-variances, of which little is meant to be heard
    given["encoder.conv_out.weight"] = torch.cat([torch.einsum("oc,cihw->oihw", into, out), silent])
    given["encoder.conv_out.bias"] = torch.cat([into @ out_bias + bias, torch.full((models.CHANNELS,), -6.0)])
    back = post @ turn.T / scale
    given["decoder.conv_in.weight"] = torch.einsum("oihw,ic->ochw", given["decoder.conv_in.weight"].float(), back)
    vae.load_state_dict(given)
    return vae


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: np.ndarray, shift: bool = True) -> AutoencoderKL:
    """Scale each latent channel, so that scaled as SD 3's it has variance 1 over ``images``, and with ``shift`` mean 0.

    A scale leaves all else the same. A shift does not, as the decoder sees zeros at the margin: only before training.
    """
    z = encode(vae, images)
    mean, gain = z.mean((0, 2, 3)), 1 / (models.SCALING * z.std((0, 2, 3)))
    moved = mean if shift else torch.zeros_like(mean)
    target = models.OFFSET if shift else 0.0
    out, into, n = vae.encoder.conv_out, vae.decoder.conv_in, models.CHANNELS
    into.bias += into.weight.sum((2, 3)) @ (moved - target / gain)
    into.weight /= gain[:, None, None]
    out.weight[:n] *= gain[:, None, None, None]
    out.bias[:n] = (out.bias[:n] - moved) * gain + target
    out.bias[n:] += 2 * gain.log()
    return vae


def _loss(vae: AutoencoderKL, x: torch.Tensor, noise: torch.Tensor, kl_weight: float):
    with torch.autocast(x.device.type, torch.bfloat16):
        mean, logvar = vae.encoder(x).float().chunk(2, 1)
        logvar = logvar.clamp(-12, 8)
        y = vae.decoder(mean + torch.exp(0.5 * logvar) * noise)
    loss, mse = reconstruction_loss(y.float(), x)
    return loss + kl_weight * 0.5 * (mean * mean + logvar.exp() - 1 - logvar).mean(), mse


def train_vae(theirs: AutoencoderKL, images: np.ndarray, recipe: VaeRecipe, work: Path) -> AutoencoderKL:
    """images: uint8 [n, 128, 128, 3]; resumes from `work/vae.pt` if it is there."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = without_outer_blocks(standardise(spread(theirs, recipe.seed), images[::8]))
    vae = vae.to(device, memory_format=torch.channels_last)
    params = list(vae.parameters())
    optim, mean = Optimiser(params, lr=recipe.lr, adam_lr=recipe.lr / 20), copy.deepcopy(vae).requires_grad_(False)
    step, path = 0, work / "vae.pt"
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        vae.load_state_dict(saved["vae"]), mean.load_state_dict(saved["ema"])
        optim.load_state_dict(saved["optim"])
        step = saved["step"]

    def save() -> None:
        state = dict(vae=vae.state_dict(), ema=mean.state_dict(), optim=optim.state_dict(), step=step)
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    data, errors = torch.from_numpy(images), []
    bar = tqdm(total=recipe.steps, initial=step, desc="autoencoder", unit="step", mininterval=5)
    with compilable_upsampling():
        loss_fn = torch.compile(_loss) if recipe.compile else _loss
        while step < recipe.steps:
            rate = min(1, (step + 1) / recipe.warmup) * (0.51 + 0.49 * math.cos(math.pi * step / recipe.steps))
            gen = torch.Generator().manual_seed(recipe.seed * 10_000_019 + step)
            x = to_input(data[torch.randint(len(data), (recipe.batch,), generator=gen)]).to(device)
            side = models.SIZE // 8
            noise = torch.randn(recipe.batch, models.CHANNELS, side, side, generator=gen).to(device)
            loss, mse = loss_fn(vae, x, noise, recipe.kl)
            optim.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optim.step(rate)
            step += 1
            decay = min(recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(mean.parameters()), list(vae.parameters()), 1 - decay)
            errors.append(mse.item())
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(psnr=f"{psnr(float(np.mean(errors[-100:]))):.2f}")
            if step % recipe.save_every == 0 or step == recipe.steps:
                save()
    bar.close()
    return standardise(with_outer_blocks({k: v.float().cpu() for k, v in mean.state_dict().items()}), images, False)


def with_outer_blocks(inner: dict[str, torch.Tensor]) -> AutoencoderKL:
    """A whole autoencoder that computes what `inner`, trained without outer blocks, computes."""
    vae = models.make_vae()
    for blocks, i in outer_blocks(vae):
        torch.nn.init.zeros_(blocks[i].conv2.weight), torch.nn.init.zeros_(blocks[i].conv2.bias)
    if unexpected := vae.load_state_dict(inner, strict=False).unexpected_keys:
        raise ValueError(f"not weights of this autoencoder: {unexpected[:3]}")
    return vae
