"""Learning to be told of marks: pictures, what detectors find in them, words for it, and a denoiser that hears them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.formats import to_kohya
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.loop import Loop
from conceptguard.making.pictures import drawn, marks, picture_files, read
from conceptguard.making.preview import previews
from conceptguard.making.shots import Shots
from conceptguard.making.task import Learned
from conceptguard.making.templates import TEMPLATES, check_window
from conceptguard.making.terms import TermsInTraining
from conceptguard.method import Settings

from ..trained_layers import Layers, layers_of
from .seen import slots, weights

if TYPE_CHECKING:
    from conceptguard.generation.conditioning import Encoded
    from conceptguard.making.task import Task

WORDS = "geom_erasing.words"
EMPTY = 0.15  # share of rows without a caption, which guidance leads away from


class GeomErasingMakeSettings(Settings):
    """What is learnt of which pictures. The paper publishes neither its bins nor α, rates and steps.

    detectors: methods that look at pictures and say where: text, code, nudenet, or one of a plugin
    pictures: a folder of those that a model was or shall be trained on, each with its caption in a .txt beside it; by
    default the model draws some itself, of what is preserved
    shots: how many it draws
    learn: "all", words and layers, the paper's removal from data; "words" alone, its removal from a model
    told: what is said of a mark: what and "where", "what" alone, or "nothing": plain fine-tuning, to compare with
    grid: bins a side
    alpha: how many times more is learnt of what lies beside a mark than of the mark
    layers, rank: as for esd
    steps, batch: optimiser steps, and pictures in each; lr: of Adam; words_lr: of the words
    templates: what is preserved is put into them, {} or with an article {a}
    """

    detectors: list[str] = Field(default=["text", "code"], min_length=1)
    pictures: str | None = None
    shots: int = Field(default=96, ge=1)
    learn: Literal["all", "words"] = "all"
    told: Literal["where", "what", "nothing"] = "where"
    grid: int = Field(default=4, ge=1, le=8)
    alpha: float = Field(default=2.0, ge=1)
    layers: Layers = "all"
    rank: int = Field(default=8, ge=1)
    steps: int = Field(default=150, ge=1)
    batch: int = Field(default=8, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    words_lr: float = Field(default=0.02, gt=0)
    templates: list[str] = list(TEMPLATES)


def told(captions: Encoded, words: Tensor, slots: Tensor) -> Encoded:
    """Captions with the words that ``slots`` [rows, words] name in their last places. words: [words, width]"""
    embeds = captions.embeds.to(words)
    last = torch.where(slots.to(words.device)[..., None], words, embeds[:, -len(words) :])
    return replace(captions, embeds=torch.cat([embeds[:, : -len(words)], last], 1))


def as_long(words: Tensor, length: Tensor) -> Tensor:
    """Words as long as the encoder's own states are, which a layer norm gives: guidance away from longer ones leaves no
    picture."""
    return F.normalize(words, dim=-1) * length


def learn(task: Task) -> Learned:
    """Raises PolicyError without pictures, where no detector finds anything, or everywhere; ArtifactError when the loss
    is no number."""
    s, denoiser, random = task.settings, task.host.denoiser(), torch.Generator().manual_seed(task.seed)
    captions, which, clean, files = _pictures(task, random)
    nothing = task.host.encode([""])
    room = nothing.embeds.shape[1] - len(s.detectors) - s.grid**2
    if room < 8:
        raise PolicyError(f"{task.label}: {s.grid} x {s.grid} bins leave no room in a prompt: fewer bins")
    found, cover = slots(denoiser.pictures(clean), s.detectors, s.grid)
    marked = found[:, : len(s.detectors)].any(1)
    if not marked.any() or marked.all():
        seen = "nothing in any" if not marked.any() else "something in every one"
        raise PolicyError(
            f"{task.label}: {', '.join(s.detectors)} found {seen} of {len(clean)} pictures: name other detectors, or "
            "give more pictures, marked ones and others"
        )
    if s.told != "where":
        found[:, len(s.detectors) if s.told == "what" else 0 :] = False
    weight = weights(cover, denoiser.shape[1:], s.alpha if s.told != "nothing" else 1.0).to(denoiser.device)
    layers = task.host.layers()
    terms = TermsInTraining(layers, layers_of(layers.shapes(), s.layers), s.rank, random)
    padding = nothing.embeds[0, -found.shape[1] :].detach().float().cpu()
    words = (padding + padding.std() * torch.randn(padding.shape, generator=random)).to(denoiser.device)
    words.requires_grad_()
    length = padding.norm(dim=1).mean().to(denoiser.device)
    shots = Shots(denoiser, clean, list(range(len(clean))), random)

    def loss(_: int) -> Tensor:
        now = shots.some(s.batch)
        silent = torch.rand(s.batch, generator=random) < EMPTY
        said = captions.rows([which[i] for i in now.texts])
        said.embeds[silent] = nothing.embeds.to(said.embeds)
        if said.pooled is not None and nothing.pooled is not None:
            said.pooled[silent] = nothing.pooled.to(said.pooled)
        terms.open(s.batch if s.learn == "all" else 0)
        predicted = denoiser(now.latents, now.times, told(said, as_long(words, length), found[now.texts])).float()
        return (weight[now.texts] * (predicted - now.wanted).pow(2)).mean()

    snapshot = task.snapshot({"pictures": files})
    with terms.attached([denoiser]) as factors, task.bar(s.steps) as tick:
        own = factors if s.learn == "all" else []
        groups = [{"params": [words], "lr": s.words_lr}, *([{"params": own}] if own else [])]
        reports = [tick, *task.reports, *previews(task, denoiser, terms.open)]
        loop = Loop(task.label, [words, *own], torch.optim.Adam(groups, lr=s.lr), random, s.steps, snapshot,
                    reports=reports)  # fmt: skip
        ended = loop.run(loss)
        learnt = terms.changes() if own else {}
    snapshot.remove()
    tensors, metadata = to_kohya(learnt)
    kinds = {name: int(found[:, i].sum()) for i, name in enumerate(s.detectors)}
    made: dict[str, Any] = {"pictures": len(clean), "marked": int(marked.sum()), "found": kinds, "files": files}
    return Learned(
        {**tensors, WORDS: as_long(words, length).detach().cpu()},
        task.made(seed=task.seed, started_at_step=ended.first, loss=round(ended.value, 6), **made),
        settings={"negative": s.told != "nothing"},
        metadata={**metadata, "detectors": json.dumps(s.detectors), "grid": str(s.grid)},
    )


def _pictures(task: Task, random: torch.Generator) -> tuple[EncodedTexts, list[int], Tensor, list[str]]:
    """(captions, which of them each picture has, the pictures as latents, which files they are)."""
    s, denoiser = task.settings, task.host.denoiser()
    if s.pictures is None:
        if not task.preserve:
            raise PolicyError(f"{task.label}: what shall the model draw to learn from? Give pictures, or preserve")
        texts, nothing = task.kept(s.templates), task.host.encode([""])
        check_window(task.host, texts)
        captions = EncodedTexts(task.host, texts)
        which = torch.randint(len(texts), (s.shots,), generator=random).tolist()
        some = [captions.rows(which[at : at + 32]) for at in range(0, s.shots, 32)]
        own = torch.cat([drawn(denoiser, part, nothing, len(part.ids), random) for part in some])
        return captions, which, own, []
    files = picture_files(s.pictures)
    said = [_caption(file) for file in files]
    texts = list(dict.fromkeys(said))
    parts = [read(files[at : at + 32], denoiser.picture_size) for at in range(0, len(files), 32)]
    latents = torch.cat([denoiser.latents(part) for part in parts])
    return EncodedTexts(task.host, texts), [texts.index(one) for one in said], latents, marks(files)


def _caption(file: Path) -> str:
    beside = file.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""
