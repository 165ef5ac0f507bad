"""Whether a model knows what is to be erased: what it predicts for the words, beside what it predicts for none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PolicyError
from ..generation.conditioning import pick
from .templates import encode_all

if TYPE_CHECKING:
    from ..host import Host
    from .task import Task

# What every model that draws knows, in prompts as short as concepts are: a long one changes more, known or not.
COMMON = ("dog", "cat", "car", "house", "tree", "apple", "ball", "chair", "book", "flower", "bird", "fish")
LEAST = 0.4  # of what these change, their upper quartile
AT = (0.98, 0.8)  # shares of the schedule: what is drawn is decided at much noise
BATCH = 16


def check_known(task: Task) -> None:
    """Raises PolicyError when the model predicts for a concept's prompts nearly what it predicts for no prompt: there
    is nothing that a training could turn away from. ``Task.anyway`` goes on. Warns of such things among what must stay.
    """
    moved = _moved(task.host, [*(prompt for one in task.each for prompt in one.prompts), *task.preserve])
    unknown = [one.name for one in task.each if max(moved[prompt] for prompt in one.prompts) < LEAST]
    if unknown and not task.anyway:
        most = max(moved[prompt] for one in task.each if one.name in unknown for prompt in one.prompts)
        raise PolicyError(
            f"{task.label}: for {_quoted(unknown)} this model predicts what it predicts for no prompt, but for "
            f"{most:.0%} of what common words change: it does not know that, or draws it anyway. Give other "
            "prompts for it, or say anyway (--anyway) to go on"
        )
    if lost := [word for word in task.preserve if moved[word] < LEAST]:
        warnings.warn(
            f"{task.label}: this model does not know {_quoted(lost)}, or draws it anyway: nothing there is held",
            stacklevel=2,
        )


def _moved(host: Host, words: Sequence[str]) -> dict[str, float]:
    """How far each moves the prediction from the empty prompt's, relative to what every model knows."""
    denoiser, texts = host.denoiser(), list(dict.fromkeys(words))
    encoded = encode_all(host, ["", *COMMON, *texts])
    noise = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(0))

    def said(share: float, rows: list[int]) -> Tensor:
        times = torch.full((len(rows),), denoiser.timestep(share))
        return denoiser(noise.expand(len(rows), *denoiser.shape), times, pick(encoded, rows)).float().cpu()

    sizes, batches = torch.zeros(len(encoded.ids) - 1), torch.arange(len(encoded.ids)).split(BATCH)
    with denoiser.frozen(), torch.no_grad():
        for share in AT:
            every = torch.cat([said(share, rows.tolist()) for rows in batches])
            sizes += (every[1:] - every[:1]).flatten(1).norm(dim=1)
    common = sizes[: len(COMMON)].quantile(0.75)
    return dict(zip(texts, (sizes[len(COMMON) :] / common).tolist()))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
