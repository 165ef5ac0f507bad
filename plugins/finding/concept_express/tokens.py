"""Words that a model itself would draw a part of a picture by, and a token that is learnt from that part alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.generation.conditioning import pick, stack
from conceptguard.making.loop import Loop
from conceptguard.making.noising import noised
from conceptguard.making.semantics import semantic_preservation, summed_up
from conceptguard.making.templates import encode_all, fill

if TYPE_CHECKING:
    from conceptguard.generation.conditioning import Encoded
    from conceptguard.host import Host
    from conceptguard.protocols import Denoiser, TextEncoder

TEMPLATE, BEFORE = "a picture of {a}", "a picture of"
LEVELS, VIEWS = (0.15, 0.3, 0.5, 0.7), 3  # of the schedule, at which words are weighed, and noises at each
AT_ONCE = 64
# Standard deviations over all other words, or a part has no word. Chosen on pictures drawn for this alone, of other
# things than are judged, and on noise and bare grounds, of which one in ten has a word then.
STANDS_OUT = 2.3
FEW = 8  # words, of which nobody can tell what one usually saves


@dataclass
class Picture:
    """One picture's parts, each as large as what the model draws. clean: latents [parts, channels, h, w]; masks:
    [parts, h, w], 1 where a part is"""

    denoiser: Denoiser
    clean: Tensor
    masks: Tensor
    random: torch.Generator

    def noisy(self, part: int, timestep: int, rows: int = 1) -> tuple[Tensor, Tensor]:
        """Noised latents and what should be predicted there, [rows, ...] each."""
        noise = torch.randn(rows, *self.clean.shape[1:], generator=self.random)
        clean = self.clean[part].expand(rows, -1, -1, -1)
        return noised(self.denoiser, clean, noise, torch.full((rows,), timestep))


def close(denoiser: Denoiser, pixels: Tensor, masks: Sequence[Tensor], random: torch.Generator) -> Picture:
    """Each part by itself, from a square around it: a model that was taught one thing in the middle of a picture knows
    little of small ones beside each other. pixels: [3, h, w] in [0, 1]; masks: [cells, cells] of bool each."""
    parts, wheres = [], []
    for mask in masks:
        place = _around(mask)
        parts.append(_resized(_within(pixels, place, len(mask)), denoiser.picture_size))
        where = _within(mask[None].float(), place, len(mask))
        wheres.append(F.interpolate(where[None], denoiser.shape[1:], mode="nearest")[0, 0])
    return Picture(denoiser, denoiser.latents(torch.stack(parts)).cpu().float(), torch.stack(wheres), random)


def _around(mask: Tensor) -> tuple[int, int, int]:
    """(left, top, side) in cells of a square with a cell's margin around what is in a mask."""
    rows, columns = mask.nonzero().T
    n = len(mask)
    side = min(n, int(max(rows.max() - rows.min(), columns.max() - columns.min())) + 3)
    at = [min(max(0, int(one.min() + one.max() + 1 - side) // 2), n - side) for one in (columns, rows)]
    return at[0], at[1], side


def _within(planes: Tensor, place: tuple[int, int, int], cells: int) -> Tensor:
    left, top, side = place
    h, w = planes.shape[-2:]
    return planes[..., top * h // cells : (top + side) * h // cells, left * w // cells : (left + side) * w // cells]


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def masked(said: Tensor, wanted: Tensor, masks: Tensor) -> Tensor:
    """Squared errors within masks [..., h, w] alone, the mean of each row: [rows]. said, wanted: [rows, c, h, w]"""
    error = (said.float() - wanted.to(said.device)).pow(2).mean(1)
    where = masks.to(error)
    return (error * where).flatten(1).sum(1) / where.flatten(-2).sum(-1).clamp(min=1e-9)


@torch.no_grad()
def words_of(host: Host, picture: Picture, part: int, words: Sequence[str]) -> list[tuple[str, float]]:
    """The words under which the model predicts a part of the picture best, the best first, each with the share that it
    saves of the loss that words leave on average under the same noises. None where the best does not stand out.

    A word is not compared with the empty prompt: a model was taught that for any picture, and the right word, which
    says nothing of a style, often does worse. Only of a few words, which somebody gave for this picture, each counts
    that does better.
    """
    texts, few = encode_all(host, [fill(TEMPLATE, word) for word in words]), len(words) < FEW
    losses = _losses(picture, part, stack(texts, host.encode([""])) if few else texts)
    usual = losses[:, -1:] if few else losses.mean(1, keepdim=True)
    saved = 1 - (losses[:, : len(words)] / usual.clamp(min=1e-12)).mean(0)
    order = saved.argsort(descending=True).tolist()
    others = saved[order[1:]]
    if not few and not float(saved[order[0]] - others.mean()) > STANDS_OUT * float(others.std()):
        return []
    return [(words[i], round(float(saved[i]), 3)) for i in order if saved[i] > 0]


def _losses(picture: Picture, part: int, texts: Encoded) -> Tensor:
    """Of each text under the same noises, [noises, texts]."""
    found, n = [], len(texts.ids)
    for level in LEVELS:
        timestep = picture.denoiser.timestep(level)
        for _ in range(VIEWS):
            latents, wanted = picture.noisy(part, timestep)
            each = []
            for rows in torch.arange(n).split(AT_ONCE):
                given = latents.expand(len(rows), -1, -1, -1)
                times = torch.full((len(rows),), timestep)
                said = picture.denoiser(given, times, pick(texts, rows.tolist()))
                each.append(masked(said, wanted, picture.masks[part]).cpu())
            found.append(torch.cat(each))
    return torch.stack(found)


def only_encoder(host: Host) -> TextEncoder:
    """The CLIP whose input vectors tokens are learnt as. Raises PolicyError where there are several, or none."""
    encoders = host.encoders()
    if len(encoders) != 1 or not encoders[0].begins or encoders[0].width is None:
        raise PolicyError(
            f"{host.name} reads prompts with {len(encoders)} encoders, and tokens are learnt for one CLIP: "
            "set steps=0 for masks and words alone"
        )
    return encoders[0]


def learn_tokens(
    host: Host, picture: Picture, named: Sequence[str], settings: Any, label: str, tick: Callable[[int, float], None]
) -> list[Tensor]:
    """A token for each part, [vectors, hidden] each, by the loss within its mask. named: the word that a part is called
    by and its token begins with, "" where it has none.

    semantic: what the token must not lose of that word (``class_diffusion``). Raises ArtifactError for a loss that is
    no number.
    """
    s, encoder, random = settings, only_encoder(host), picture.random
    table = encoder.vocabulary.float().cpu()
    head = table[encoder.ids([BEFORE])[0]]
    usual = table[list(encoder.lexicon().values())].mean(0) if encoder.lexicon() else table.mean(0)
    starts = [table[encoder.ids([word])[0]] if word else usual[None] for word in named]
    tokens = [start[:1].repeat(s.vectors, 1).clone().requires_grad_() for start in starts]
    nothing = summed_up(encoder, []).detach()
    classes = [summed_up(encoder, encoder.ids([fill(TEMPLATE, word)])[0]).detach() - nothing for word in named]

    def loss(step: int) -> Tensor:
        part = step % len(tokens)
        timestep = picture.denoiser.timestep(float(torch.rand((), generator=random)))
        latents, wanted = picture.noisy(part, timestep, s.batch)
        text, vectors = f"{BEFORE} {part}", torch.cat([head, tokens[part]])
        said = host.predict(text, latents.to(picture.denoiser.dtype), timestep, vectors=vectors, guarded=False)
        found = masked(said, wanted, picture.masks[part]).mean()
        if s.semantic and named[part]:
            own = summed_up(encoder, encoder.ids([named[part]])[0], vectors) - nothing
            found = found + s.semantic * semantic_preservation(own, classes[part])
        return found

    optimiser = torch.optim.AdamW(tokens, lr=s.lr * float(table.norm(dim=1).mean()), weight_decay=0.0)
    with picture.denoiser.frozen(), encoder.frozen():
        Loop(label, tokens, optimiser, random, s.steps * len(tokens), reports=[tick]).run(loss)
    return [token.detach().cpu() for token in tokens]


def shortlist(
    encoder: Any, pixels: Tensor, mask: Tensor, words: Sequence[str], most: int
) -> list[str]:  # fmt: skip
    """Of many words those that an encoder of pictures and texts has nearest to a part of a picture.

    pixels: [3, h, w] in [0, 1]; mask: [cells, cells] of bool
    """
    if encoder is None or len(words) <= most:
        return list(words)
    texts = encoder.texts(words)
    texts = F.normalize(texts - texts.mean(0), dim=1)
    near = texts @ encoder.pictures(_within(pixels, _around(mask), len(mask))[None])[0]
    return [words[i] for i in near.topk(most).indices.tolist()]
