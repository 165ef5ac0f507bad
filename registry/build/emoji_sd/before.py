"""How emoji-sd and its judge were trained before they were to be trained faster: what `pace` measures today against.

Each function is a context in which today's training is that of then. Pictures, captions, networks and the number of
their weights are today's, and so is what judges.

- autoencoder: one AdamW for all weights, squared errors once and not four times, no averaged weights.
- denoiser: one AdamW for the UNet and for the text encoder, which began from nothing and learned its words meanwhile;
  batches of 32; every picture as often as any other. It knew the few hundred words of its captions only, where today's
  captions know all, so that AdamW moves six million numbers more than it did.
- all: freed memory went back to the system at once.
- judge: one AdamW whose rate rises for a tenth of the steps and then falls, with its momentum against it (OneCycleLR);
  batches of 96.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from . import diffusion, judge, models, processes, vae

DENOISER_BATCH, JUDGE_BATCH = 32, 96


class AdamW:
    """What stands in for `Optimiser`: one AdamW for all weights, with the one learning rate that there was."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *_: object, decay: float = 0.01) -> None:
        self.optim = torch.optim.AdamW(params, 1e-3, betas=(0.9, 0.99), weight_decay=decay, fused=True)

    def step(self, rate: float) -> None:
        """One step at ``rate`` (0 to 1) of the learning rate."""
        for group in self.optim.param_groups:
            group["lr"] = rate * 1e-3
        self.optim.step()

    def zero_grad(self) -> None:
        self.optim.zero_grad()

    def state_dict(self) -> dict:
        return self.optim.state_dict()


class OneCycle:
    """What stands in for the judge's `Optimiser`; its rate is its own, over ``steps``."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *_: object, steps: int) -> None:
        self.optim = torch.optim.AdamW(params, 3e-3, weight_decay=0.02)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optim, 3e-3, steps, pct_start=0.1)

    def step(self, _: float) -> None:
        """One step, whatever rate today's recipe has there."""
        self.optim.step()
        self.schedule.step()

    def zero_grad(self) -> None:
        self.optim.zero_grad()


@contextmanager
def autoencoder() -> Iterator[None]:
    """For `train_vae` with a recipe of ``ema=0``."""
    todays = vae.reconstruction_loss

    def loss(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        total, mse = todays(y, x)
        return total - 3 * mse, mse

    with patch.multiple(vae, Optimiser=partial(AdamW, decay=1e-4), reconstruction_loss=loss), _memory():
        yield


@contextmanager
def denoiser(folder: Path, seed: int = 0) -> Iterator[None]:
    """For `diffusion.worker` on ``folder``, with batches of `DENOISER_BATCH` and a ``text_lr`` of 1e-3."""
    torch.manual_seed(seed)
    torch.save({"text": models.make_text_encoder().state_dict()}, folder / "text.pt")
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(diffusion, Optimiser=AdamW, SEEN={}))
        # What today's recipe takes from the optimiser is another table, so that words are learned with the pictures.
        stack.enter_context(patch.object(diffusion, "token_embedding", lambda _: torch.nn.Embedding(1, 1)))
        stack.enter_context(patch.object(torch.optim, "AdamW", partial(torch.optim.AdamW, fused=True)))
        yield


@contextmanager
def reader(steps: int) -> Iterator[None]:
    """For `train_judge` of ``steps`` with batches of `JUDGE_BATCH`."""
    with patch.object(judge, "Optimiser", partial(OneCycle, steps=steps)), _memory():
        yield


def _memory() -> AbstractContextManager[object]:
    """Where memory goes back to the system, unless the process has trained as it is done today before."""
    return patch.object(processes, "keep_memory", lambda: None)
