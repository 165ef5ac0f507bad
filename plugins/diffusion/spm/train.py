"""Training a membrane: erase the concept along its own trajectories, hold everything else where it was.

Lyu et al., CVPR 2024. With the membrane on, the concept's prompt must give the noise of its neutral prompt, pushed
away from the concept (``eta``); anchor prompts must give the noise they give without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.generation.conditioning import pick, stack
from conceptguard.making.loop import Loop
from conceptguard.making.templates import TEMPLATES
from conceptguard.making.walks import Walks
from conceptguard.method import Settings
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, Terms

from .optimiser import Normalised
from .texts import Texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conceptguard.making.task import Task

SNAPSHOT_EVERY = 8  # steps


class SPMMakeSettings(Settings):
    """How a membrane is trained. In brackets what the authors' repository uses where it differs.

    rank, alpha: of the membrane; what acts is alpha / rank times up times down
    steps: optimiser steps [3000, each with one prompt at one state]
    lr: how far a step moves each vector, at its peak: after a linear warm-up, then one cosine to zero [AdamW with 1e-4
        and three cosines]
    warmup: steps of the warm-up [500]
    start: where the down factors of layers that read text begin: "concept", along what tells the concept's texts from
        neutral ones among those to hold; "random", as all others do [random]
    eta: how far past neutral the concept is pushed
    la_strength: weight of the anchoring loss; in few steps a large one keeps the concept as well [1000]
    alpha_distance: anchors are drawn with probability (1 - |cos|)^alpha_distance [in effect Gaussian noise]
    batch, anchors: rows of each loss per step; one more row anchors the empty prompt [1 and 4]
    trajectory_steps: states of each trajectory; all are trained on while it is walked [30, of which the last one]
    guidance: of the trajectories, away from the neutral prompt [away from the empty one]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    rank: int = Field(default=1, ge=1)
    alpha: float = Field(default=1.0, gt=0)
    steps: int = Field(default=24, ge=1)
    lr: float = Field(default=0.06, gt=0)
    warmup: int = Field(default=4, ge=0)
    start: Literal["concept", "random"] = "concept"
    eta: float = Field(default=1.0, ge=0)
    la_strength: float = Field(default=10.0, ge=0)
    alpha_distance: float = Field(default=1.0, ge=0)
    batch: int = Field(default=4, ge=1)
    anchors: int = Field(default=3, ge=0)
    trajectory_steps: int = Field(default=12, ge=2)
    guidance: float = 3.0
    templates: list[str] = list(TEMPLATES)


def layers_of(names: Sequence[str]) -> list[str]:
    """Canonical names of layers that a membrane lies beside.

    Of a UNet: every linear and convolution layer inside its Transformer2DModels. Of a transformer: what reads the text,
    and every layer of its blocks but those that modulate their norms.
    """
    inside = [n for n in names if n.startswith("unet.") and ".attentions." in n]
    blocks = [n for n in names if n.startswith("transformer.transformer_blocks.") and ".norm" not in n]
    return [*inside, *(n for n in names if n == "transformer.context_embedder"), *blocks]


def initial(
    shapes: dict[str, tuple[int, ...]], settings: SPMMakeSettings, generator: torch.Generator,
    towards: Tensor | None = None,
) -> dict[str, Factors]:  # fmt: skip
    """down: Kaiming uniform with a = √5, that is U(±1/√fan_in); up: zero, so that a new membrane does nothing.

    towards: a direction of what layers read of a text, [width]; the first rank of their ``down`` lies along it, as long
    """
    found = {}
    for name, (out, *rest) in shapes.items():
        bound = 1 / math.sqrt(math.prod(rest))
        down = (torch.rand(settings.rank, *rest, generator=generator) * 2 - 1) * bound
        if towards is not None and name.endswith(_READS_TEXT) and rest == [len(towards)]:
            down[0] = towards * down[0].norm()
        up = torch.zeros(out, settings.rank, *(1 for _ in rest[1:]))
        found[name] = Factors(down, up, settings.alpha / settings.rank)
    return found


_READS_TEXT = (".attn2.to_k", ".attn2.to_v", ".context_embedder")


class Training:
    """One membrane in training, acting through the low-rank runtime like any other guard's terms.

    Everything random is drawn beforehand, so that a step depends on nothing but its number and the state before it.
    """

    def __init__(self, task: Task):
        host, s = task.host, task.settings
        self.settings, self.label = s, task.label
        self.denoiser = host.denoiser()
        layers = host.layers()
        every = layers.shapes()
        shapes = {name: every[name] for name in layers_of(list(layers))}
        if not shapes:
            raise ArtifactError(f"the {self.denoiser.name} of this model has no layers that SPM trains beside")
        random = torch.Generator().manual_seed(task.seed)
        self.texts = Texts(host, task.concept, task.preserve, s, random)
        towards = self.texts.direction() if s.start == "concept" else None
        self._layers, self._start = layers, initial(shapes, s, random, towards)
        self._walks = Walks(self.denoiser, len(self.texts.own), s.steps, s.batch, s.trajectory_steps, random)
        self._random = random
        self.snapshot = task.snapshot()
        self.first = 0
        self._banks = Banks(layers, [], self)

    def run(self, reports: Sequence[Callable[[int, float], None]] = ()) -> dict[str, Factors]:
        """Train to the end, from the last snapshot where there is one. Each report(step, loss) after every step.

        Raises ArtifactError when the loss is not a number.
        """
        s, walks = self.settings, self._walks
        with self.denoiser.frozen(), self._attached() as banks:
            parameters = [t for bank in banks.banks.values() for t in (bank.down, bank.up)]
            loop = Loop(
                self.label, parameters, Normalised(parameters, s.lr), self._random, s.steps, self.snapshot,
                SNAPSHOT_EVERY, [walks.latents], lambda step: s.lr * _schedule(step, s.steps, s.warmup), reports,
            )  # fmt: skip
            self.first = loop.run(lambda step: self._loss(banks, step)).first
            found = {
                name: Factors(bank.down.detach().float(), _up(bank.up.detach().float() / self._start[name].scale,
                              self._start[name].up), self._start[name].scale)
                for name, bank in banks.banks.items()
            }  # fmt: skip
        self.snapshot.remove()
        return found

    def open(self, gates: Sequence[float]) -> None:
        """The membrane as it is by now, for each row of the denoiser's next call. While it runs."""
        self._banks.set(self.denoiser.name, torch.tensor(gates)[:, None])

    @contextmanager
    def _attached(self) -> Iterator[Banks]:
        banks = self._banks = Banks(self._layers, [Terms(cast(Any, self), self._start, Gate())], self)
        try:
            for bank in banks.banks.values():
                # In fp32 whatever the model computes in: small steps vanish in half precision.
                factors = self._start[bank.name]
                down, up = factors.down, factors.up.reshape(len(factors.up), -1).T * factors.scale
                bank.down, bank.up = (t.to(bank.down.device).requires_grad_() for t in (down, up.contiguous()))
            yield banks
        finally:
            banks.detach()

    def _loss(self, banks: Banks, step: int) -> Tensor:
        """The erasing loss at every trajectory's state, plus the anchoring loss at the same states. The trajectories go
        on by what the membrane and the neutral prompt predict there.
        """
        s, texts = self.settings, self.texts
        latents, times, rows = self._walks.at(step)
        held = stack(texts.empty, texts.anchors_of(step)) if s.anchors else texts.empty
        # By turns, so that the empty prompt is not held at one trajectory's states alone.
        at = (torch.arange(len(held.ids)) + step) % s.batch
        target = pick(texts.target, rows)
        with torch.no_grad():
            banks.set(self.denoiser.name, None)
            before = self.denoiser(
                torch.cat([latents, latents, latents[at]]), torch.cat([times, times, times[at]]),
                stack(target, pick(texts.neutral, rows), held),
            ).float()  # fmt: skip
            towards, neutral, anchored = before.split([s.batch, s.batch, len(at)])
            goal = neutral - s.eta * (towards - neutral)
        banks.set(self.denoiser.name, torch.ones(s.batch + len(at), 1))
        after = self.denoiser(
            torch.cat([latents, latents[at]]), torch.cat([times, times[at]]), stack(target, held)
        ).float()  # fmt: skip
        loss = F.mse_loss(after[: s.batch], goal) + s.la_strength * F.mse_loss(after[s.batch :], anchored)
        self._walks.go_on(step, neutral + s.guidance * (after[: s.batch].detach() - neutral))
        return loss


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _up(stacked: Tensor, like: Tensor) -> Tensor:
    """[rank, out] of a bank as the file's [out, rank(, 1, 1)]."""
    return stacked.T.reshape(like.shape).contiguous().cpu()
