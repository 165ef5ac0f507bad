"""Training a membrane: erase the concept along its own trajectories, hold everything else where it was.

Lyu et al., CVPR 2024. With the membrane on, the concept's prompt must give the noise of its neutral prompt, pushed
away from the concept (``eta``); anchor prompts must give the noise they give without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.concept import Concept
from conceptguard.errors import ArtifactError
from conceptguard.generation.conditioning import Encoded, pick, stack
from conceptguard.making.templates import TEMPLATES, check_window, encode_all, fill
from conceptguard.method import Settings
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.encodings import ordinary_captions
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, Terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conceptguard.host import Host
    from conceptguard.making.task import Task


class SPMMakeSettings(Settings):
    """How a membrane is trained. In brackets what the authors' repository uses where it differs.

    rank, alpha: of the membrane; what acts is alpha / rank times up times down
    steps: optimiser steps [3000, each with one prompt at one state]
    lr: peak learning rate of AdamW after a linear warm-up, then one cosine to zero [1e-4; three cosines]
    warmup: steps of the warm-up [500]
    eta: how far past neutral the concept is pushed
    la_strength: weight of the anchoring loss; in few steps a large one keeps the concept as well [1000]
    alpha_distance: anchors are drawn with probability (1 - |cos|)^alpha_distance [in effect Gaussian noise]
    batch, anchors: rows of each loss per step; one more row anchors the empty prompt [1 and 4]
    pool, refresh: trajectories kept at a time, and after how many steps they are made anew [1 and 1]
    trajectory_steps, guidance: of the DDIM runs that give the states to train on [30]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    rank: int = Field(default=1, ge=1)
    alpha: float = Field(default=1.0, gt=0)
    steps: int = Field(default=80, ge=1)
    lr: float = Field(default=1e-2, gt=0)
    warmup: int = Field(default=10, ge=0)
    eta: float = Field(default=1.0, ge=0)
    la_strength: float = Field(default=10.0, ge=0)
    alpha_distance: float = Field(default=1.0, ge=0)
    batch: int = Field(default=4, ge=1)
    anchors: int = Field(default=3, ge=0)
    pool: int = Field(default=4, ge=1)
    refresh: int = Field(default=20, ge=1)
    trajectory_steps: int = Field(default=20, ge=2)
    guidance: float = 3.0
    templates: list[str] = list(TEMPLATES)


class Texts:
    """Everything a training encodes, once: pairs (concept, neutral) row by row, anchors, the empty prompt."""

    def __init__(self, host: Host, concept: Concept, preserve: Sequence[str], settings: SPMMakeSettings):
        filled = [(fill(t, p), fill(t, concept.replacement)) for p in concept.prompts for t in settings.templates]
        self.own, neutral = (list(column) for column in zip(*dict(filled).items()))
        self.kept = list(dict.fromkeys(fill(t, p) for p in preserve for t in settings.templates))
        captions = ordinary_captions(without=concept.prompts)
        check_window(host, [*self.own, *neutral, *self.kept])
        self.target, self.neutral = encode_all(host, self.own), encode_all(host, neutral)
        self.anchors = encode_all(host, [*self.kept, *captions])
        self.empty = host.encode([""])
        # Distances in the text space are between ends of text, where a causal encoder has read everything.
        centre = F.normalize(_ends(self.target), dim=-1).mean(0, keepdim=True)
        self.distance = 1 - F.cosine_similarity(_ends(self.anchors), centre).abs()


def layers_of(names: Sequence[str]) -> list[str]:
    """Every linear and convolution layer inside the UNet's Transformer2DModels, by canonical name."""
    return [n for n in names if n.startswith("unet.") and ".attentions." in n]


def initial(
    shapes: dict[str, tuple[int, ...]], settings: SPMMakeSettings, generator: torch.Generator
) -> dict[str, Factors]:
    """down: Kaiming uniform with a = √5, that is U(±1/√fan_in); up: zero, so that a new membrane does nothing."""
    found = {}
    for name, (out, *rest) in shapes.items():
        bound = 1 / math.sqrt(math.prod(rest))
        down = (torch.rand(settings.rank, *rest, generator=generator) * 2 - 1) * bound
        up = torch.zeros(out, settings.rank, *(1 for _ in rest[1:]))
        found[name] = Factors(down, up, settings.alpha / settings.rank)
    return found


class Training:
    """One membrane in training, acting through the low-rank runtime like any other guard's terms."""

    def __init__(self, task: Task):
        host, self.settings, self.concept = task.host, task.settings, task.concept
        self.denoiser = host.denoiser()
        self.texts = Texts(host, task.concept, task.preserve, self.settings)
        self.random = torch.Generator().manual_seed(task.seed)
        layers = host.layers()
        shapes = {n: layers.shapes()[n] for n in layers_of(list(layers))}
        if not shapes:
            raise ArtifactError("this model has no Transformer2DModel layers: SPM trains on Stable Diffusion UNets")
        self._layers, self._start = layers, initial(shapes, self.settings, self.random)
        self.snapshot = task.snapshot({"concept": task.concept.model_dump(), "preserve": list(task.preserve)})
        self.first = 0

    def run(self, reports: Sequence[Callable[[int, float], None]] = ()) -> dict[str, Factors]:
        """Train to the end, from the last snapshot where there is one. Each report(step, loss) after every step.

        Raises ArtifactError when the loss is not a number.
        """
        s = self.settings
        with self.denoiser.frozen(), self._attached() as banks:
            parameters = self._parameters(banks)
            optimiser = torch.optim.AdamW(parameters, lr=s.lr)
            self.first = self.snapshot.restore(parameters, optimiser, self.random)
            pool: tuple[Tensor, list[int]] | None = None
            for step in range(self.first, s.steps):
                if step % s.refresh == 0 or pool is None:
                    # States between two refreshes follow from the last snapshot, so no pool has to be kept.
                    self.snapshot.save(step, parameters, optimiser, self.random)
                    pool = self._trajectories(banks)
                for group in optimiser.param_groups:
                    group["lr"] = s.lr * _schedule(step, s.steps, s.warmup)
                loss = self._loss(banks, *pool)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise ArtifactError(
                        f"training the membrane '{self.concept.name}' gave loss {value} at step {step}: lower lr "
                        f"(now {s.lr}), or load the model in fp32"
                    )
                optimiser.zero_grad()
                torch.autograd.backward(loss, inputs=parameters)
                optimiser.step()
                for report in reports:
                    report(step, value)
            found = {
                name: Factors(bank.down.detach().float(), _up(bank.up.detach().float() / self._start[name].scale,
                              self._start[name].up), self._start[name].scale)
                for name, bank in banks.banks.items()
            }  # fmt: skip
        self.snapshot.remove()
        return found

    @contextmanager
    def _attached(self) -> Iterator[Banks]:
        banks = Banks(self._layers, [Terms(cast(Any, self), self._start, Gate())], self)
        try:
            for bank in banks.banks.values():
                # In fp32 whatever the model computes in: small steps vanish in half precision.
                factors = self._start[bank.name]
                down, up = factors.down, factors.up.reshape(len(factors.up), -1).T * factors.scale
                bank.down, bank.up = (t.to(bank.down.device).requires_grad_() for t in (down, up.contiguous()))
            yield banks
        finally:
            banks.detach()

    def _parameters(self, banks: Banks) -> list[Tensor]:
        return [t for bank in banks.banks.values() for t in (bank.down, bank.up)]

    @torch.no_grad()
    def _trajectories(self, banks: Banks) -> tuple[Tensor, list[int]]:
        """States of guided runs of the concept's prompts with the membrane, [steps, pool, ...], and which prompts."""
        s = self.settings
        rows = torch.randint(len(self.texts.own), (s.pool,), generator=self.random).tolist()
        noise = torch.randn(s.pool, *self.denoiser.shape, generator=self.random)
        banks.set("unet", torch.ones(2 * s.pool, 1))
        conditions, nothing = pick(self.texts.target, rows), pick(self.texts.empty, [0] * s.pool)
        return self.denoiser.trajectories(noise, conditions, nothing, s.trajectory_steps, s.guidance), rows

    def _loss(self, banks: Banks, states: Tensor, rows: list[int]) -> Tensor:
        """The erasing loss on a few states, plus the anchoring loss on the same states."""
        s, texts = self.settings, self.texts
        which = torch.randint(s.pool, (s.batch,), generator=self.random)
        when = torch.randint(s.trajectory_steps, (s.batch,), generator=self.random)
        latents = states[when, which]
        times = torch.tensor(self.denoiser.timesteps(s.trajectory_steps))[when]
        own = [rows[i] for i in which.tolist()]
        held = texts.empty
        if s.anchors:
            likely = texts.distance.pow(s.alpha_distance)
            drawn = torch.multinomial(likely, s.anchors, replacement=True, generator=self.random).tolist()
            held = stack(held, pick(texts.anchors, drawn))
        at = torch.arange(len(held.ids)) % s.batch
        target = pick(texts.target, own)
        with torch.no_grad():
            banks.set("unet", None)
            before = self.denoiser(
                torch.cat([latents, latents, latents[at]]), torch.cat([times, times, times[at]]),
                stack(target, pick(texts.neutral, own), held),
            ).float()  # fmt: skip
            towards, neutral, anchored = before.split([s.batch, s.batch, len(at)])
            goal = neutral - s.eta * (towards - neutral)
        banks.set("unet", torch.ones(s.batch + len(at), 1))
        after = self.denoiser(
            torch.cat([latents, latents[at]]), torch.cat([times, times[at]]), stack(target, held)
        ).float()  # fmt: skip
        return F.mse_loss(after[: s.batch], goal) + s.la_strength * F.mse_loss(after[s.batch :], anchored)


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _up(stacked: Tensor, like: Tensor) -> Tensor:
    """[rank, out] of a bank as the file's [out, rank(, 1, 1)]."""
    return stacked.T.reshape(like.shape).contiguous().cpu()


def _ends(encoded: Encoded) -> Tensor:
    """The encoding of each text's end token, [rows, width], on the CPU."""
    last = encoded.embeds.shape[1] - 1
    return torch.stack([e[min(len(ids) + 1, last)] for e, ids in zip(encoded.embeds, encoded.ids)]).float().cpu()
