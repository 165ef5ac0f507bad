"""ConceptExpress (Hao et al., 2024): one picture in, its concepts out, without labels: a mask, words and a token each.

The parts are those places that look at each other while the model is told nothing. A token is learnt by the loss within
its part alone. In the published code some pictures end in an IndexError, since no level of clusters suits them; here a
picture in which nothing stands out gives no concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, FoundConcept, Search
from conceptguard.finding.crops import CELLS, FLAT
from conceptguard.finding.naming import distinct
from conceptguard.method import Settings

from ..found import PictureFinder
from .places import LEVELS, VIEWS, attention, regions
from .tokens import close, learn_tokens, only_encoder, shortlist, words_of

ALIKE = 0.75  # of what the best word saves: a word that saves as much evokes the same


class ConceptExpressFindSettings(Settings):
    """concepts: at most how many; words: of many words, so many that an encoder has nearest are weighed by the model
    steps, batch, lr: of each token's learning; lr is in lengths of an input vector; 0 steps give masks and words alone
    vectors: how many input vectors a token has [5, merged into one]
    semantic: weight of what a token must not lose of the word that it is called by, see ``class_diffusion`` [none]
    """

    concepts: int = Field(default=4, ge=1, le=32)
    words: int = Field(default=32, ge=2)
    steps: int = Field(default=30, ge=0)
    batch: int = Field(default=4, ge=1)
    lr: float = Field(default=0.05, gt=0)
    vectors: int = Field(default=1, ge=1, le=16)
    semantic: float = Field(default=0.0, ge=0)


class ConceptExpress(PictureFinder):
    """Pictures: of one picture, what it shows: where, by which words the model would draw it, and a token for it."""

    name: ClassVar[str] = "concept_express"
    looks_at: ClassVar[str] = "picture"
    FindSettings: ClassVar[Any] = ConceptExpressFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """search.pictures: one, of the model's own size. Raises PolicyError for several, for one of one colour, and
        for a model without a single CLIP where tokens are asked for; SessionError without attention to read."""
        s, host = search.settings, search.host
        if search.pictures is None or len(search.pictures) != 1 or host is None:
            raise PolicyError("concept_express looks at one picture through a model: give --pictures FILE and --model")
        pixels = search.pictures.pixels
        if int((pixels.flatten(2).amax(2).int() - pixels.flatten(2).amin(2).int()).amax()) <= FLAT:
            raise PolicyError(f"{search.pictures.names[0]} is of one colour all over: there is nothing to find in it")
        if s.steps:
            only_encoder(host)
        denoiser, random = host.denoiser(), torch.Generator().manual_seed(search.seed)
        shown = pixels.float() / 255
        clean = denoiser.latents(shown).cpu().float()
        rows, told = attention(denoiser, clean, host.encode([""]), random)
        side = round(len(rows) ** 0.5)
        if side * side != len(rows) or denoiser.shape[1] != denoiser.shape[2]:
            raise PolicyError(f"{host.name} draws no squares: concept_express reads the maps of those that do")
        masks = regions(rows, told, side)[: s.concepts]
        if not masks:
            return Found([], "nothing stands out in this picture: no concepts", {"looks": len(LEVELS) * VIEWS})
        stacked = torch.stack(masks).float()[None]
        picture = close(denoiser, shown[0], masks, random)
        with search.bar(len(masks), ", weighing words") as tick:
            named = []
            for i, mask in enumerate(masks):
                near = shortlist(search.encoder, shown[0], mask, search.words, s.words)
                named.append(words_of(host, picture, i, near) if near else [])
                tick(i)
        names = distinct(named)
        tokens: list[Any] = [None] * len(masks)
        if s.steps:
            with search.bar(s.steps * len(masks), ", learning tokens") as tick:
                best = [words[0][0] if words else "" for words in named]
                tokens = learn_tokens(host, picture, best, s, search.label, tick)
        maps = F.interpolate(stacked, (CELLS, CELLS), mode="nearest")[0]
        shares = [float(told[mask.flatten()].sum() / told.sum()) for mask in masks]
        found = [
            FoundConcept(
                name, words, torch.ones(1), where[None], torch.zeros(0), share, evoked=_alike(words), token=token
            )
            for name, words, where, share, token in zip(names, named, maps, shares, tokens)
        ]
        table = [
            {"concept": one.name, "importance": round(one.importance, 4),
             "area": round(float(mask.float().mean()), 3), "words": ", ".join(one.evoked)}
            for one, mask in zip(found, masks)
        ]  # fmt: skip
        bare = sum(not words for words in named)
        bares = f", {bare} of them without a word: no policy guards what has none" if bare else ""
        return Found(table, f"{len(found)} concepts in {search.pictures.names[0]}{bares}",
                     {"looks": len(LEVELS) * VIEWS}, found)  # fmt: skip


def _alike(words: Sequence[tuple[str, float]]) -> list[str]:
    return [word for word, saved in words if saved >= ALIKE * words[0][1]]
