"""SFD: a generator of one step forgets by the scores of the model it was distilled from, which see an anchor in its
pictures of the concept.

x = G(z, c), pure noise z;   x̂(c) = the clean picture that a network predicts from x_t, of x and noise
min_ψ  ‖ε_ψ(x_t, c) − ε‖²                                                ψ: knows the score of G's own pictures
min_G  (x̂_φ(c_o) − x̂_ψ(c)) · (x̂_φ(c_o) − x − α (x̂_φ(c_o) − x̂_ψ(c))) / ω   φ: the frozen teacher; ω = mean |x̂_φ − x|

c_o: for the concept's prompts the anchor's, else c itself: then this is the loss by which G was distilled.

Chen et al., "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion Models", ICLR
2025, after Zhou et al., "Score identity Distillation", ICML 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import conceptguard
from conceptguard.errors import PolicyError
from conceptguard.generation.conditioning import Encoded, pick
from conceptguard.making.base import weights_mark
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.known import check_known
from conceptguard.making.loop import Gradients, Loop
from conceptguard.making.noising import clean, noised
from conceptguard.making.templates import TEMPLATES, check_window, instead
from conceptguard.making.terms import TermsInTraining, predictions
from conceptguard.method import Settings
from conceptguard.plugins import host_for

from .trained_layers import Layers, layers_of
from .trained_terms import TrainedTerms

if TYPE_CHECKING:
    from conceptguard.making.task import Learned, Task
    from conceptguard.protocols import Denoiser

LEVELS = (20, 980)  # timesteps that are compared, the last one excluded: beyond, predictions say nothing


class SFDMakeSettings(Settings):
    """How the generator is trained. In brackets what the authors' repository uses where it differs.

    teacher: the model that the generator was distilled from
    layers: which of the generator's linear layers, as for esd; rank: of their change; null learns whole matrices [all]
    steps, batch: optimiser steps of both networks, and pictures of the concept in each, and of what stays [8]
    lr, fake_lr: of Adam, of the generator and of the network that knows its score [1e-6 and 3e-6]
    alpha: how far the loss corrects itself for what that network does not know yet [1, and 1.2 for class conditions]
    guidance: of the teacher [4.5, of all networks]
    keep: weight of what stays
    templates: what the concept's prompts are put into, {} or with an article {a}
    """

    teacher: str = "emoji-sd"
    layers: Layers = "x"
    rank: int | None = Field(default=8, ge=1)
    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=4, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    fake_lr: float = Field(default=1e-3, gt=0)
    alpha: float = 1.0
    guidance: float = 3.5
    keep: float = Field(default=1.0, ge=0)
    templates: list[str] = list(TEMPLATES)


def score_identity(real: Tensor, fake: Tensor, drawn: Tensor, alpha: float) -> Tensor:
    """The generator's loss of each row, [rows]: clean pictures that the teacher and the other network predict, and what
    the generator drew, all [rows, channels, h, w]. Equal to the authors' to rounding."""
    with torch.no_grad():
        size = (real - drawn).abs().flatten(1).mean(1).clamp(min=1e-5)
    apart = real - fake
    return (apart * (real - drawn - alpha * apart)).flatten(1).sum(1) / size


class SFD(TrainedTerms):
    """Pictures: a generator of one step, trained by its teacher's scores to draw an anchor in a concept's place.

    Terms beside the generator's layers, gated by the prompt. The anchor is ``Task.anchor``.
    """

    name = "sfd"
    MakeSettings = SFDMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train both networks. Raises ArtifactError when a loss is no number, RegistryError without the teacher,
        PolicyError for a model that is its own."""
        s, host, generator = task.settings, task.host, task.host.denoiser()
        task.check(s.templates)
        check_known(task)
        own, kept = task.own(s.templates), task.kept(s.templates)
        check_window(host, [*own, *kept])
        model = conceptguard.load_model(s.teacher, torch_dtype=generator.dtype).to(generator.device)
        guide: Any = host_for(model)
        if weights_mark(guide) == weights_mark(host):
            raise PolicyError(f"{s.teacher} is its own teacher: give --model a generator of one step distilled from it")
        teacher = guide.denoiser()
        random = torch.Generator().manual_seed(task.seed)
        layers, its_layers = host.layers(), guide.layers()
        terms = TermsInTraining(layers, layers_of(layers.shapes(), s.layers), s.rank, random)
        fake = TermsInTraining(its_layers, layers_of(its_layers.shapes(), "all"), s.rank, random)
        asked, wanted = [*own, *(kept or [""])], instead(s.templates, task.concept.prompts, task.anchor)
        texts, meant = EncodedTexts(host, asked), EncodedTexts(guide, [*wanted, *(kept or [""])])
        nothing, named = guide.encode([""]), EncodedTexts(guide, asked)
        snapshot = task.snapshot()

        def gradients(_: int) -> Gradients:
            spans = (0, len(own)), (len(own), len(asked))
            rows = torch.cat([torch.randint(*span, (s.batch,), generator=random) for span in spans]).tolist()
            drawn = one_step(generator, terms, texts.rows(rows), random)
            eps = torch.randn(drawn.shape, generator=random)
            times = torch.randint(*LEVELS, (len(rows),), generator=random)
            state, noise = noised(teacher, drawn, eps, times)
            its_texts, empty = named.rows(rows), pick(nothing, [0] * len(rows))
            (its,) = predictions(teacher, fake, state.detach(), times, its_texts, learnt=True)
            known = F.mse_loss(its, noise)
            step_of_fake = torch.autograd.grad(known, followed)
            towards, without, its = predictions(
                teacher, fake, state, times, meant.rows(rows), empty, its_texts, learnt=(False, False, True)
            )
            real = clean(teacher, state, without + s.guidance * (towards - without), times)
            losses = score_identity(real, clean(teacher, state, its, times), drawn, s.alpha)
            value = losses[: s.batch].mean() + s.keep * losses[s.batch :].mean()
            return Gradients(float(known.detach()), [*torch.autograd.grad(value, learnt), *step_of_fake])

        with terms.attached([generator]) as learnt, fake.attached([teacher]) as followed, task.bar(s.steps) as tick:
            groups = [{"params": learnt}, {"params": followed, "lr": s.fake_lr}]
            optimiser = torch.optim.Adam(groups, lr=s.lr, betas=(0.0, 0.999))
            loop = Loop(task.label, [*learnt, *followed], optimiser, random, s.steps, snapshot,
                        reports=[tick, *task.reports])  # fmt: skip
            ended = loop.run(gradients)
            found = terms.changes()
        snapshot.remove()
        return cls.learned(task, found, own, kept, anchor=task.anchor, teacher=s.teacher, started_at_step=ended.first,
                           loss=round(ended.value, 6))  # fmt: skip


def one_step(generator: Denoiser, terms: TermsInTraining, asked: Encoded, random: torch.Generator) -> Tensor:
    """Latents that the generator draws of pure noise, with gradients."""
    noise = torch.randn(len(asked.ids), *generator.shape, generator=random).to(generator.device)
    times = torch.full((len(noise),), generator.timestep(1.0))
    (said,) = predictions(generator, terms, noise, times, asked, learnt=True)
    return clean(generator, noise, said, times)
