"""One call of a denoiser: when it is, what it is conditioned on, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from .conditioning import Branch, Encoded

TIMESTEPS = 1000  # of every noise schedule that diffusers' pipelines use
# (rows, loss) -> (maps, gradient); see ``Conditions.attend``
Attend = Callable[[Sequence[int], Callable[[torch.Tensor], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]


def noise_at(timestep: torch.Tensor | float) -> float:
    """Where on the noise schedule this is, from 1, nothing but noise, to 0; timesteps count to 1,000."""
    return float(torch.as_tensor(timestep).max()) / TIMESTEPS


class Drawn:
    """Which rows a picture is drawn towards, and from which ones. For what has branches and a guidance scale.

    Guidance combines (1 - w) ε_n + w ε_p: a picture is drawn towards what has a positive share. So with a scale below 1
    that is the negative prompt, too, and from 0 on it alone.

    guidance_scale: w, 1 where a call has no second branch; None where the caller calls the denoiser itself and combines
    the predictions as it likes: then every prompt may be what the picture is drawn towards.
    """

    branches: Sequence[Branch | None]
    guidance_scale: float | None
    cut: bool  # whether guidance was on, and was turned off in the middle of the generation

    @staticmethod
    def of(branches: Sequence[Branch | None], guidance_scale: float | None) -> Drawn:
        """From the two alone."""
        drawn = Drawn()
        drawn.branches, drawn.guidance_scale, drawn.cut = branches, guidance_scale, False
        return drawn

    @property
    def unguided(self) -> str:
        """Why a call has nothing that guidance takes it away from, and what to do, for an error."""
        if self.cut:
            return "guidance was turned off in the middle of this generation, as some callbacks do: leave it on"
        if self.guidance_scale is None:
            return "this generation has none: set guidance_scale above 1"
        how = f"guidance_scale {self.guidance_scale:g} or less, or a distilled model"
        return f"this generation has none ({how}): set guidance_scale above 1"

    @property
    def towards(self) -> list[int]:
        """The rows that must be guarded: see above, and those of unknown origin."""
        away: set[Branch | None] = {"unconditional"}
        if self.guidance_scale is not None:
            away |= {"negative"} if self.guidance_scale >= 1 else set()
            away |= {"conditional"} if self.guidance_scale <= 0 else set()
        return [row for row, branch in enumerate(self.branches) if branch not in away]

    def away_from(self) -> dict[int, int | None]:
        """For every row of ``towards`` the one that guidance takes it away from; None where the call has none."""
        towards = self.towards
        scale = self.guidance_scale
        # From 0 to 1 guidance lies between its branches and takes a picture away from neither.
        others = [row for row in range(len(self.branches)) if row not in set(towards)]
        if scale is not None and 0 <= scale <= 1:
            others = []
        if len(others) == 1:
            return dict.fromkeys(towards, others[0])
        return dict(zip(towards, others if len(others) == len(towards) else [None] * len(towards)))


@dataclass(frozen=True)
class Moment:
    """When a denoiser call happens.

    call: the how manieth of this generation, from 0; a receipt's ``steps`` are calls
    step: the denoising step, from 0. A step has several calls where predictions are composed or a solver is of second
    order: steps are counted by the timestep.
    within: the how manieth call of its step, from 0
    """

    call: int = 0
    step: int = 0
    within: int = 0


Skips = tuple[torch.Tensor, ...]


class SkipChange(NamedTuple):
    """Rows, and for up blocks by number what becomes of each of their skip features, by its place among them."""

    rows: list[int]
    blocks: Mapping[int, Callable[[int, torch.Tensor], torch.Tensor]]


@dataclass
class Conditions(Drawn):
    """What one denoiser call is conditioned on, one row each. A change holds for this call only.

    texts: as in Prompts; prompts: what each text encoder was given, in the order of ``prompt``, ``prompt_2``,
    ``prompt_3``; both None for embeddings that were not encoded under the session
    embeds: [rows, tokens, width]; pooled: [rows, width] or None
    guidance_scale: None where the caller calls the denoiser itself
    skips: rows -> what the model itself, without any guard, hands to each of its up blocks for these rows as they are
    conditioned now: one tuple of [rows, channels, height, width] a block. None where the denoiser is no UNet
    skip_changes: what guards make of these features in this call, see ``change_skips``
    separate: whether guidance takes a call for each branch, so that the other one's rows are not in this call
    latents: [rows, ...] as the denoiser is given them, without what some models are given beside; None where a host
    cannot move them
    last: the timestep with which this schedule ends
    moves: what guards add to the latents, as these; None while nobody did
    attend: (rows, loss) -> (maps, gradient): the cross-attention of the model itself, without any guard, for these rows
    as the caller gave them. maps: [rows, positions, tokens], the mean over heads and over the layers whose resolution
    is nearest to 16 x 16; loss: maps -> [rows]; gradient: of the loss with respect to the latents, as ``latents[rows]``
    """

    texts: list[str | None]
    prompts: list[tuple[str, ...] | None]
    embeds: torch.Tensor
    pooled: torch.Tensor | None
    branches: list[Branch | None]
    guidance_scale: float | None
    moment: Moment
    skips: Callable[[Sequence[int]], list[Skips]] | None = None
    skip_changes: list[SkipChange] = field(default_factory=list)
    separate: bool = False
    timestep: torch.Tensor | float = float("nan")
    latents: torch.Tensor | None = None
    last: float = 0.0
    moves: torch.Tensor | None = None
    attend: Attend | None = None
    cut: bool = False

    @property
    def noise(self) -> float:
        """See ``noise_at``."""
        return noise_at(self.timestep)

    def change(self, rows: list[int], embeds: torch.Tensor, pooled: torch.Tensor | None = None) -> None:
        """Other embeddings [rows, tokens, width] for some rows; the caller's own tensors stay as they are."""
        self.embeds = self.embeds.clone()
        self.embeds[rows] = embeds.to(self.embeds)
        if self.pooled is not None and pooled is not None:
            self.pooled = self.pooled.clone()
            self.pooled[rows] = pooled.to(self.pooled)

    def blend(self, row: int, embeds: torch.Tensor, pooled: torch.Tensor | None, gate: float) -> None:
        """Other embeddings [tokens, width] and [width] for one row, as far as ``gate`` is open, 0 to 1."""
        own = self.embeds[row].float()
        if self.pooled is not None and pooled is not None:
            before = self.pooled[row].float()
            pooled = torch.lerp(before, pooled.to(before), gate)[None]
        self.change([row], torch.lerp(own, embeds.to(own), gate)[None], pooled)

    def change_skips(
        self, rows: Sequence[int], changes: Mapping[int, Callable[[int, torch.Tensor], torch.Tensor]]
    ) -> None:
        """Other skip features for some rows at up blocks by number: (place in ``Skips``, the feature [len(rows),
        channels, height, width] that the guarded call itself has) -> another one. One at a time: not every host has
        all at once."""
        self.skip_changes.append(SkipChange(list(rows), changes))

    def move(self, rows: list[int], by: torch.Tensor) -> None:
        """Add ``by``, as ``latents[rows]``, to what these rows are denoised from, and to what the sampler steps from.

        The rows that guidance takes them away from follow. Moves of several guards add up, each of them made from the
        latents as they came, so that their order does not matter. Raises ValueError where a host cannot.
        """
        if self.latents is None:
            raise ValueError("the sampler of this host cannot be moved")
        self.moves = torch.zeros_like(self.latents) if self.moves is None else self.moves
        self.moves[rows] += by.to(self.moves)


@dataclass
class Step(Drawn):
    """One call of the denoiser. prediction: [rows, channels, height, width] or as the model has it (video has
    frames, FLUX has patches in a row), rows as in ``latents``.

    guidance_scale: None where the caller calls the denoiser itself
    denoise: (conditions, rows) -> what the model itself, without any guard, predicts for the latents of these rows
    under other conditions, one each or one for all: [len(rows), channels, height, width]
    separate: whether guidance takes a call for each branch, so that the other one's rows are not in this call
    """

    index: int
    timestep: torch.Tensor | float
    latents: torch.Tensor
    prediction: torch.Tensor
    branches: list[Branch | None]
    guidance_scale: float | None
    moment: Moment = field(default_factory=Moment)
    denoise: Callable[[Encoded, Sequence[int]], torch.Tensor] | None = None
    separate: bool = False
    cut: bool = False

    @property
    def noise(self) -> float:
        """See ``noise_at``."""
        return noise_at(self.timestep)
