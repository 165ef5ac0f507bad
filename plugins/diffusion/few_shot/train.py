"""Ascent of the denoising loss on a few pictures, through the text encoder, until a prompt says nothing about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.generation.conditioning import Encoded
from conceptguard.making.loop import Loop
from conceptguard.making.noising import losses
from conceptguard.making.pictures import drawn, marks, picture_files, read
from conceptguard.making.preview import previews
from conceptguard.making.shots import Shots
from conceptguard.making.templates import TEMPLATES, check_window, encode_all
from conceptguard.making.terms import TermsInTraining, cut_to_rank
from conceptguard.making.text_encoders import Parts, clip_encoders, conditions, layers_beside
from conceptguard.method import Settings

from .ruler import Encode, Ruler, spread

if TYPE_CHECKING:
    from conceptguard.making.task import Task
    from conceptguard.protocols import Denoiser
    from conceptguard.runtime.lowrank import Factors


class FewShotMakeSettings(Settings):
    """How the text encoder unlearns. In brackets what the authors' repository uses where it differs.

    pictures: files of the concept, or a folder of them; none: the model draws some itself
    shots: how many it draws
    layers: which of the encoder's [mlp and last attention]
    rank: of the change that is kept; null keeps it whole [whole]
    lr, batch: of Adam, and pictures in a step [1e-5 and 2]
    steps: at most; the rule below ends it [5 epochs, of which the user picks one]
    past: it ends once the concept's prompts, in wordings kept apart, make its pictures harder to denoise than no prompt
    does, by this share of the loss; 0 ends where they say nothing about them
    views: pictures with noise on them that this is measured on after every step
    templates: what the concept's prompts are put into, {} or with an article {a}, to unlearn
    apart: other such wordings, which only the rule is measured on
    """

    pictures: str | list[str] = []
    shots: int = Field(default=4, ge=1)
    layers: Parts = "mlp and last attention"
    rank: int | None = Field(default=8, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=4, ge=1)
    steps: int = Field(default=60, ge=1)
    past: float = Field(default=1.0, ge=0)
    views: int = Field(default=24, ge=1)
    templates: list[str] = list(TEMPLATES)
    apart: list[str] = ["here is {a}", "{}, seen from above", "{a} on a table", "a sketch showing {a}"]


class Unlearnt(NamedTuple):
    """terms: by layer; made: how, for the manifest; own: texts of the concept that were unlearnt."""

    terms: dict[str, Factors]
    made: Mapping[str, Any]
    own: list[str]


def unlearn(task: Task) -> Unlearnt:
    """Ascend until the rule says stop. Raises ArtifactError when the loss is not a number, when the rule is not met
    within ``steps``, and when the concept's prompts say nothing about the pictures to begin with."""
    s, host, prompts = task.settings, task.host, task.concept.prompts
    files = picture_files(s.pictures) if s.pictures else []
    encoders, denoiser = clip_encoders(host, "few_shot"), host.denoiser()
    own, apart = task.own(s.templates), task.own(s.apart)
    check_window(host, [*own, *apart])
    random = torch.Generator().manual_seed(task.seed)
    nothing = host.encode([""])
    if files:
        clean = denoiser.latents(read(files, denoiser.picture_size))
    else:
        some = encode_all(host, [own[i] for i in spread(len(own), s.shots, random)])
        clean = drawn(denoiser, some, nothing, s.shots, random)
    ruler = Ruler(denoiser, clean, apart, nothing, s.views, random)
    training = TermsInTraining(host.layers(), layers_beside(host.layers(), encoders, s.layers), None, random)
    with denoiser.frozen(), training.attached(encoders) as parameters, task.bar(s.steps) as tick:

        def now(texts: Sequence[str]) -> Encoded:
            training.open(len(texts))
            return conditions(encoders, texts, nothing)

        helped = ruler.gain(now)
        if helped <= 0:
            raise ArtifactError(
                f"'{prompts[0]}' does not help this model to denoise the {len(clean)} pictures, so there is nothing to "
                "unlearn from them: give pictures that show the concept, or other prompts"
            )
        taken, helps = _ascend(task, denoiser, clean, own, now, ruler, parameters, random,
                                [tick, *task.reports, *previews(task, denoiser, encode=now)])  # fmt: skip
        whole = training.changes()
    terms, error = cut_to_rank(whole, s.rank)
    made = {
        "steps_taken": taken, "helped": round(helped, 4), "helps": round(helps, 4), "truncation_error": round(error, 4),
        "pictures": marks(files) or f"{len(clean)} of its own",
    }  # fmt: skip
    return Unlearnt(terms, made, own)


def _ascend(
    task: Task, denoiser: Denoiser, clean: Tensor, own: Sequence[str], encode: Encode, ruler: Ruler,
    parameters: Sequence[Tensor], random: torch.Generator, reports: Sequence[Callable[[int, float], None]],
) -> tuple[int, float]:  # fmt: skip
    """(steps taken, what the concept's prompts help then). Each report(step, what they help) after every step."""
    s = task.settings
    optimiser = torch.optim.Adam(parameters, lr=s.lr, betas=(0.9, 0.98), eps=1e-6)
    shots = Shots(denoiser, clean, [0] * len(clean), random)

    def loss(_: int) -> Tensor:
        texts = [own[i] for i in torch.randint(len(own), (s.batch,), generator=random).tolist()]
        now = shots.some(s.batch)
        return -losses(denoiser(now.latents, now.times, encode(texts)), now.wanted).mean()

    loop = Loop(task.label, parameters, optimiser, random, s.steps, reports=reports)
    ended = loop.run(loss, gauge=lambda: ruler.gain(encode), enough=lambda helps: helps <= -s.past)
    if ended.value > -s.past:
        raise ArtifactError(
            f"{task.label}: after {s.steps} steps its prompts make its pictures {-ended.value:+.0%} harder to denoise "
            f"than none, and {s.past:+.0%} is asked for (past): give more steps, or a larger lr (now {s.lr})"
        )
    return ended.taken, ended.value
