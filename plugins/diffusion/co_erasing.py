"""Co-Erasing: a concept is described by pictures of it as well as by its words, and turned away from as both say.

ε_θ(x_t, [c; p])  ←  ε₀(x_t, ∅) − η (ε₀(x_t, [c; p]) − ε₀(x_t, ∅))        p = softmax(Q Kᵀ / √d) V

p: tokens of a picture of the concept, by an image adapter (Q), refined by those of the text (K, V), so that
what else is in the picture is left out; in part of the rows there are none, which is ESD.

Li et al., "One Image is Worth a Thousand Words: A Usability Preservable Text-Image Collaborative Erasing Framework",
ICML 2025.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field

from conceptguard.making.pictures import drawn, picture_files, read
from conceptguard.making.templates import encode_all

from .esd import goal
from .trained_layers import LayerSettings, Plan, TrainedLayers

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Task

    from .trained_layers import State


EMBEDDED = "emoji-adapter"


class CoErasingMakeSettings(LayerSettings):
    """How the layers are trained. The authors' repository starts from a finished ESD, and makes 1000 steps of one state
    at a rate of 1e-5 with 100 to 200 pictures, blurred.

    eta: how far past nothing the concept is pushed
    pictures: a folder of some of the concept; by default the model draws some itself; shots: how many
    adapter: an IP-Adapter's file, by default the shipped one, of emoji-sd
    encoder: a folder of the CLIP that it reads pictures by, by default the one that lies with the adapter
    refined: whether the text says what of a picture counts
    share: of the rows, those that have a picture beside the text
    """

    eta: float = Field(default=1.0, ge=0)
    pictures: str | None = None
    shots: int = Field(default=16, ge=1)
    adapter: str = EMBEDDED
    encoder: str | None = None
    refined: bool = True
    share: float = Field(default=0.5, ge=0, le=1)


def refined(pictures: Tensor, texts: Tensor) -> Tensor:
    """Tokens of pictures [rows, tokens, width] as mixtures of the text's [rows, positions, width]."""
    alike = pictures @ texts.transpose(1, 2) / math.sqrt(pictures.shape[-1])
    return alike.softmax(-1) @ texts


class CoErasing(TrainedLayers):
    """Pictures: layers trained to turn from a concept as pictures of it and its words together describe it.

    Terms beside the denoiser's layers, gated by the prompt.
    """

    name = "co_erasing"
    MakeSettings = CoErasingMakeSettings

    @classmethod
    def plan(cls, task: Task) -> Plan:
        """ESD's goal, of text and picture. Raises PolicyError for an adapter of another model."""
        s, denoiser, own = task.settings, task.host.denoiser(), task.own(task.settings.templates)
        random = torch.Generator().manual_seed(task.seed)
        if s.pictures is None:
            texts, nothing = encode_all(task.host, own[: s.shots]), task.host.encode([""])
            shown = denoiser.pictures(drawn(denoiser, texts, nothing, s.shots, random))
        else:
            shown = read(picture_files(s.pictures), denoiser.picture_size)
        known = denoiser.picture_prompts(s.adapter, s.encoder, shown)

        def loss(now: State) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            rows = torch.randint(len(known), (len(now.rows),), generator=now.random)
            pictures = known[rows].float()
            if s.refined:
                pictures = refined(pictures, now.asked.embeds.to(pictures))
            silent = torch.rand(len(now.rows), generator=now.random) >= s.share
            pictures[silent] = 0  # an adapter adds nothing for it
            both = replace(now.asked, pictures=pictures)
            towards, without = now.frozen(both, now.nothing)
            (said,) = now.trained(both)
            return F.mse_loss(said, goal(towards, without, s.eta)), (said, without)

        return Plan(own, loss, within=partial(denoiser.reading_pictures, s.adapter))
