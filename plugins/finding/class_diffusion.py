"""What a personalisation lost of the classes that a model knew: ClassDiffusion's measure (Huang et al., 2024).

Of a learnt word it is how far "a picture of <word> skull" has gone, for the text encoder, from "a picture of a skull",
both as they differ from the empty text; beside it stands a word by chance of the same length. Of a LoRA it is how far
predictions for a class have gone, as a share of what that class says at all: at 1 it might as well not have been asked
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.files.header import read_header
from conceptguard.finder import Found, Search
from conceptguard.formats import read_terms
from conceptguard.making.noising import noised
from conceptguard.making.pictures import drawn
from conceptguard.making.semantics import semantic_preservation, summed_up
from conceptguard.making.templates import fill
from conceptguard.method import Settings

from .concept_express.tokens import BEFORE, TEMPLATE, only_encoder
from .found import PictureFinder

if TYPE_CHECKING:
    from conceptguard.host import Host
    from conceptguard.runtime.lowrank import Factors

LEVELS = (0.3, 0.5, 0.7)


class ClassDiffusionFindSettings(Settings):
    """token: a learnt word's file, as ``load_textual_inversion`` reads it; lora: a LoRA's; one of the two
    pictures: of each class, at whose noise levels a LoRA's predictions are read
    """

    token: str = ""
    lora: str = ""
    pictures: int = Field(default=2, ge=1)


class ClassDiffusion(PictureFinder):
    """Pictures: what a learnt word or a LoRA lost of the classes that a model knew."""

    name: ClassVar[str] = "class_diffusion"
    looks_at: ClassVar[str] = "model"
    FindSettings: ClassVar[Any] = ClassDiffusionFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """A row for each of the concept's prompts, which are the classes, the most lost first. Raises PolicyError for
        no classes, for both files or none, and for one that is not what it should be."""
        s = search.settings
        if search.concept is None:
            raise PolicyError("class_diffusion asks what is left of classes: name them, --concept 'kept: dog,apple'")
        if bool(s.token) == bool(s.lora):
            raise PolicyError("class_diffusion measures one file: give --set token=FILE or --set lora=FILE")
        words = search.concept.prompts
        found = _of_word(search, words) if s.token else _of_lora(search, words)
        found.sort(key=lambda row: -row["lost"])
        lost = sum(row["lost"] for row in found) / len(found)
        return Found(found, f"of {len(found)} classes {lost:.2f} is lost on average", {"lost": round(lost, 4)})


def _of_word(search: Search, words: list[str]) -> list[dict[str, Any]]:
    encoder = only_encoder(search.host)
    vectors = _vectors(Path(search.settings.token).expanduser(), encoder.hidden)
    random = torch.Generator().manual_seed(search.seed)
    chance = torch.randn(vectors.shape, generator=random)
    chance = chance * vectors.norm(dim=1, keepdim=True) / chance.norm(dim=1, keepdim=True)
    table = encoder.vocabulary.float().cpu()

    head = table[encoder.ids([BEFORE])[0]]
    rows = []
    with torch.no_grad():
        # What all texts have in common, which in a small encoder is nearly everything, is nothing that could be lost.
        nothing = summed_up(encoder, [])
        for word in words:
            bare = summed_up(encoder, encoder.ids([fill(TEMPLATE, word)])[0]) - nothing
            ids = encoder.ids([word])[0]
            lost = [float(semantic_preservation(summed_up(encoder, ids, torch.cat([head, own])) - nothing, bare))
                    for own in (vectors, chance)]  # fmt: skip
            rows.append({"class": word, "lost": round(lost[0], 5), "by_chance": round(lost[1], 5)})
    return rows


def _of_lora(search: Search, words: list[str]) -> list[dict[str, Any]]:
    host, random = search.host, torch.Generator().manual_seed(search.seed)
    lora = _terms(Path(search.settings.lora).expanduser(), host)
    denoiser, nothing = host.denoiser(), host.encode([""])
    places = {}
    for word in words:
        clean = drawn(denoiser, host.encode([fill(TEMPLATE, word)]), nothing, search.settings.pictures, random).cpu()
        places[word] = [
            (noised(denoiser, clean, torch.randn(clean.shape, generator=random), torch.full((len(clean),), t))[0], t)
            for t in map(denoiser.timestep, LEVELS)
        ]

    @torch.no_grad()
    def said(text: str, word: str) -> Tensor:
        return torch.cat([
            host.predict(text, latents.to(denoiser.dtype), t, guarded=False).float().cpu()
            for latents, t in places[word]
        ])  # fmt: skip

    bare = {word: (said(fill(TEMPLATE, word), word), said("", word)) for word in words}
    with search.bar(len(words), ", reading", "lost") as tick, host.wearing(lora):
        rows = []
        for i, word in enumerate(words):
            own, none = bare[word]
            lost = float((said(fill(TEMPLATE, word), word) - own).norm() / (own - none).norm().clamp(min=1e-9))
            rows.append({"class": word, "lost": round(lost, 4)})
            tick(i, lost)
    return rows


def _vectors(file: Path, hidden: int) -> Tensor:
    tensors = _read(file)
    found = next(iter(tensors.values()))
    found = found[None] if found.ndim == 1 else found
    if len(tensors) != 1 or found.ndim != 2 or found.shape[1] != hidden:
        raise PolicyError(f"token {file}: not one learnt word of {hidden} numbers a vector, as this model reads them")
    return found.float()


def _terms(file: Path, host: Host) -> Mapping[str, Factors]:
    return read_terms(_read(file), {}, host.layers(), base_weights=host.weights())


def _read(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise PolicyError(f"{file}: no such file: give one in safetensors")
    read_header(file)  # what it is not, it says better than the library
    return load_file(file)
