"""Fine-tuning by the model's own knowledge of a concept: trained to turn away from where the frozen model would go.

ε_θ(x_t, c)  ←  ε₀(x_t, ∅) − η (ε₀(x_t, c) − ε₀(x_t, ∅))        ε₀: the frozen model; x_t: of the trained one's runs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.generation.conditioning import pick, stack
from conceptguard.making.loop import Loop
from conceptguard.making.templates import TEMPLATES, check_window, encode_all
from conceptguard.making.terms import TermsInTraining
from conceptguard.making.walks import Walks
from conceptguard.method import Settings

if TYPE_CHECKING:
    from conceptguard.making.task import Task
    from conceptguard.runtime.lowrank import Factors

Layers = Literal["x", "u", "strict"]
_BESIDE = (".add_k_proj", ".add_v_proj", ".context_embedder")  # what a transformer reads text with


class ESDMakeSettings(Settings):
    """How the layers are trained. In brackets what the authors' repository uses where it differs.

    layers: "x", those that read the text, for what a prompt has to name; "strict", of these the keys and values alone;
    "u", all others of the denoiser's blocks, for what pictures show unasked
    rank: of the change, learnt as factors; null learns whole matrices [whole]
    steps, batch: optimiser steps, and states in each [1000 or 200, and 1]
    lr: of Adam [1e-5 or 5e-5]
    eta: how far past nothing the concept is pushed
    trajectory_steps, guidance: of the runs that states are taken from [50 and 3]
    sampler: whose runs: the trained model's, as in the paper, or the frozen one's [frozen, in the newer code]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    layers: Layers = "x"
    rank: int | None = Field(default=8, ge=1)
    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=4, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    eta: float = Field(default=1.0, ge=0)
    trajectory_steps: int = Field(default=12, ge=2)
    guidance: float = 3.0
    sampler: Literal["trained", "frozen"] = "trained"
    templates: list[str] = list(TEMPLATES)


class Trained(NamedTuple):
    """terms: by layer; own: texts of the concept; first: the step it was taken up at; loss: the last one."""

    terms: dict[str, Factors]
    own: list[str]
    first: int
    loss: float


def layers_of(shapes: dict[str, tuple[int, ...]], which: Layers) -> list[str]:
    """Names of linear layers of the denoiser that ``which`` means. Raises ArtifactError when there are none.

    What reads text is cross-attention in a UNet; in a transformer, where text flows beside the picture, what makes
    keys and values of it, and what takes it in.
    """
    blocks = [
        n for n, shape in shapes.items() if len(shape) == 2 and n.startswith(("unet.", "transformer."))
        and (".attentions." in n or ".transformer_blocks." in n or n.endswith(".context_embedder")) and ".norm" not in n
    ]  # fmt: skip
    x = [n for n in blocks if ".attn2." in n or (n.startswith("transformer.") and n.endswith(_BESIDE))]
    strict = [n for n in x if n.endswith((".to_k", ".to_v", *_BESIDE))]
    found = {"x": x, "strict": strict, "u": [n for n in blocks if n not in set(x)]}[which]
    if not found:
        raise ArtifactError(f"this model has no layers '{which}' that esd trains beside")
    return found


def goal(towards: Tensor, nothing: Tensor, eta: float) -> Tensor:
    """What the trained model is to say of the concept: as far from it as the frozen one goes towards it, times eta."""
    return nothing - eta * (towards - nothing)


def train(task: Task) -> Trained:
    """To the end, from the last snapshot where there is one. Raises ArtifactError when the loss is no number."""
    s, host, denoiser = task.settings, task.host, task.host.denoiser()
    own = task.own(s.templates)
    check_window(host, own)
    texts, empty = encode_all(host, own), host.encode([""])
    nothing = pick(empty, [0] * s.batch)
    random = torch.Generator().manual_seed(task.seed)
    names = layers_of({n: host.layers().shapes()[n] for n in host.layers()}, s.layers)
    terms = TermsInTraining(host.layers(), names, s.rank, random)
    walks = Walks(denoiser, len(own), s.steps, s.batch, s.trajectory_steps, random)
    snapshot = task.snapshot({"concept": task.concept.model_dump()})

    def loss(step: int) -> Tensor:
        latents, times, rows = walks.at(step)
        asked = pick(texts, rows)
        terms.open(0)
        with torch.no_grad():
            frozen = denoiser(torch.cat([latents, latents]), torch.cat([times, times]), stack(asked, nothing)).float()
        towards, without = frozen.chunk(2)
        terms.open(s.batch)
        said = denoiser(latents, times, asked).float()
        drawn = said.detach() if s.sampler == "trained" else towards
        walks.go_on(step, without + s.guidance * (drawn - without))
        return F.mse_loss(said, goal(towards, without, s.eta))

    with terms.attached([denoiser]) as parameters, task.bar(s.steps) as tick:
        optimiser = torch.optim.Adam(parameters, lr=s.lr)
        loop = Loop(task.label, parameters, optimiser, random, s.steps, snapshot, also=[walks.latents],
                    reports=[tick, *task.reports])  # fmt: skip
        ended = loop.run(loss)
        found = terms.changes()
    snapshot.remove()
    return Trained(found, own, ended.first, ended.value)
