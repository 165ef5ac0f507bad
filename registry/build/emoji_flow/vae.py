"""The autoencoder: emoji-sd's own, its four latent channels spread over the sixteen of SD 3.

What it makes of a picture stays the same but for the margin, so that nothing needs to be trained.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..emoji_sd.vae import encode
from . import models


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
