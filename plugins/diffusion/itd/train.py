"""Training the sparse autoencoder of ItD on the states that prompts and captions leave behind a text encoder's layer.

Adam, a decoder of unit rows, and an auxiliary loss that lets dead features learn what is not yet rebuilt: Gao et al.,
2024. The field's libraries do not fit here: overcomplete imports vision models and a second build of OpenCV, sae-lens
brings transformer-lens and fifty packages more, for the hundred lines below.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making.loop import Loop
from conceptguard.making.progress import Tick
from conceptguard.making.snapshot import Snapshot
from conceptguard.making.task import Task
from conceptguard.making.templates import TEMPLATES
from conceptguard.method import Settings
from conceptguard.protocols import TextEncoder

from .sae import SAE

END = -1  # stands for the end token among ids
SAVE_EVERY = 250
AUXILIARY = 1 / 32  # weight of the auxiliary loss, the authors'
DEAD_AFTER = 100  # steps without being active


class ItDMakeSettings(Settings):
    """How the autoencoder is trained, and what finds concepts in it. In brackets what the authors' repository uses.

    layer: behind which of the encoder's layers, from 0 [8 of 12]. Early ones keep a word at its own token
    features, k, aux_k: of the dictionary, active at once, and of the auxiliary loss [524288, 64, 256]
    steps, batch, lr: of Adam, with a short warm-up and the last third linear to zero; batch in tokens [lr 1e-4]
    templates: what words are put into, {} or with an article {a}, to train and to find features
    calibration: other such wordings, which only the classifier's threshold is measured on
    """

    layer: int = Field(default=0, ge=0)
    features: int = Field(default=1024, ge=2)
    k: int = Field(default=4, ge=1)
    aux_k: int = Field(default=16, ge=1)
    steps: int = Field(default=1500, ge=1)
    batch: int = Field(default=512, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    templates: list[str] = list(TEMPLATES)
    calibration: list[str] = ["here is {a}", "{}, seen from above", "{a} on a table", "a sketch showing {a}"]


@torch.no_grad()
def states_behind(encoder: TextEncoder, layer: int, texts: Sequence[str], tick: Tick) -> Tensor:
    """Different states that texts leave behind a layer, [n, width], float32 on the CPU, without the begin token.

    CLIP looks back only, so texts that begin alike have the same states up to where they part: each is taken once, and
    of each text's padding two positions.
    """
    seen: set[tuple[int, ...]] = set()
    found: list[Tensor] = []
    random = torch.Generator().manual_seed(0)
    for start in range(0, len(texts), 256):
        ids = encoder.ids(texts[start : start + 256])

        def keep(states: Tensor, ids: list[list[int]] = ids) -> Tensor:
            for row, own in zip(states, ids):
                beginnings = [tuple([*own, END][: i + 1]) for i in range(len(own) + 1)]
                new = [i + 1 for i, beginning in enumerate(beginnings) if beginning not in seen]
                seen.update(beginnings)
                first, last = len(own) + 2, row.shape[0]
                padding = torch.randint(first, last, (2,), generator=random).tolist() if first < last else []
                found.append(row[[*new, *padding]].float().cpu())
            return states

        encoder.through(ids, layer, keep)
        tick(min(start + 256, len(texts)) - 1)
    return torch.cat(found)


class Training:
    """One autoencoder in training; ``run`` takes an interrupted one up where it was.

    states: [n, width]; inputs: everything else that the result depends on, as plain data
    """

    def __init__(self, states: Tensor, settings: ItDMakeSettings, seed: int, snapshot: Snapshot):
        self.settings, self.snapshot = settings, snapshot
        self.mean, self.first = states.mean(0), 0
        self.scale = (states - self.mean).pow(2).mean().sqrt().clamp_min(1e-6)
        self.states = (states - self.mean) / self.scale
        self.random = torch.Generator().manual_seed(seed)
        start = self.states[self._draw(settings.features)]
        start = torch.nn.functional.normalize(start + 0.1 * torch.randn(start.shape, generator=self.random), dim=1)
        self.encoder, self.decoder = start.clone().requires_grad_(), start.clone().requires_grad_()
        self.bias = torch.zeros(settings.features, requires_grad=True)
        self.centre = torch.zeros(states.shape[1], requires_grad=True)
        self.idle = torch.zeros(settings.features)  # steps since a feature was active

    def _draw(self, count: int) -> Tensor:
        return torch.randint(len(self.states), (count,), generator=self.random)

    def run(self, tick: Tick) -> SAE:
        """To the end. Raises ArtifactError when the loss is not a number."""
        s, parameters = self.settings, [self.encoder, self.decoder, self.bias, self.centre]
        optimiser = torch.optim.Adam(parameters, lr=s.lr, eps=6.25e-10)
        optimiser.register_step_pre_hook(lambda *_: self._across())
        optimiser.register_step_post_hook(lambda *_: self._unit())
        loop = Loop(
            "the autoencoder", parameters, optimiser, self.random, s.steps, self.snapshot, SAVE_EVERY, [self.idle],
            lambda step: s.lr * min(1, (step + 1) / 20, 3 * (s.steps - step) / s.steps), [tick],
        )  # fmt: skip
        self.first = loop.run(lambda _: self._loss(self.states[self._draw(s.batch)])).first
        self.snapshot.remove()
        return self._result()

    @torch.no_grad()
    def _across(self) -> None:
        """Rows stay of unit length, so a step along them would be lost."""
        assert self.decoder.grad is not None
        self.decoder.grad -= (self.decoder.grad * self.decoder).sum(1, keepdim=True) * self.decoder

    @torch.no_grad()
    def _unit(self) -> None:
        self.decoder /= self.decoder.norm(dim=1, keepdim=True)

    def _loss(self, x: Tensor) -> Tensor:
        """Share of variance not rebuilt, plus what dead features could rebuild of the rest. x: [batch, width]."""
        s = self.settings
        with torch.no_grad():  # only what is chosen needs a gradient
            all_ = (x - self.centre) @ self.encoder.T + self.bias
            index = all_.topk(s.k, dim=-1).indices
        value = self._values(x, index)
        rebuilt = self._decoded(value, index) + self.centre
        self.idle += 1
        self.idle[index[value.detach() > 1e-3]] = 0
        loss = (rebuilt - x).pow(2).mean()
        dead = self.idle > DEAD_AFTER
        if int(dead.sum()) > s.aux_k:
            index = all_.masked_fill(~dead, -torch.inf).topk(s.aux_k, dim=-1).indices
            rest = (x - rebuilt).detach()
            missed = (self._decoded(self._values(x, index), index) - rest).pow(2).mean()
            loss = loss + AUXILIARY * missed / (rest - rest.mean(0)).pow(2).mean().clamp_min(1e-12)
        return loss

    def _values(self, x: Tensor, index: Tensor) -> Tensor:
        return (((x - self.centre).unsqueeze(1) * self.encoder[index]).sum(-1) + self.bias[index]).relu()

    def _decoded(self, value: Tensor, index: Tensor) -> Tensor:
        return (value.unsqueeze(-1) * self.decoder[index]).sum(1)

    @torch.no_grad()
    def _result(self) -> SAE:
        """In the states' own units, without features that none of the states makes active."""
        sae = SAE(
            self.encoder / self.scale, self.decoder * self.scale, self.bias.clone(),
            self.mean + self.scale * self.centre, self.settings.k,
        )  # fmt: skip
        used = torch.zeros(len(sae), dtype=torch.bool)
        for part in self.states.split(4096):
            codes = sae.encode(part * self.scale + self.mean)
            used[codes.index[codes.value > 0]] = True
        if int(used.sum()) < sae.k:
            raise ArtifactError(f"{int(used.sum())} features of the autoencoder are ever active: give more steps")
        return SAE(sae.encoder[used], sae.decoder[used], sae.bias[used], sae.centre, sae.k)


def unexplained(sae: SAE, states: Tensor) -> float:
    """Share of the states' variance that the autoencoder does not rebuild, 0 to 1. states: [n, width]."""
    wrong = sum(float((sae.decode(sae.encode(p)) - p).pow(2).sum()) for p in states.split(4096))
    return wrong / max(float((states - states.mean(0)).pow(2).sum()), 1e-12)


def train(task: Task, encoder: TextEncoder, texts: Sequence[str]) -> tuple[SAE, Tensor]:
    """An autoencoder of what a text encoder makes of texts, and the states it learned from.

    Raises PolicyError for a layer that the denoiser does not hear of.
    """
    s = task.settings
    if s.layer >= encoder.depth:
        raise PolicyError(f"layer {s.layer}: the denoiser hears of {encoder.name}'s layers 0 to {encoder.depth - 1}")
    with task.bar(len(texts), f" {encoder.name}: reading") as tick:
        states = states_behind(encoder, s.layer, texts, tick)
    snapshot = task.snapshot({"encoder": encoder.name, "texts": list(texts)}, encoder.name)
    training = Training(states, s, task.seed, snapshot)
    with task.bar(s.steps, f" {encoder.name}") as tick:
        return training.run(tick), states
