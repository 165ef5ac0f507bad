"""TRCE's first stage: what a denoiser reads at the end token of a concept's prompts becomes what a safe one's says.

Chen et al., "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models", 2025, equation 5, for
N texts with positions e at weights w, and n texts to keep with all their positions k:

    W* = (1/N Σ w W e_safe eᵀ + p/n Σ W k kᵀ + λW) (1/N Σ w e eᵀ + p/n Σ k kᵀ + λI)⁻¹

which is UCE's closed form of rows that are scaled by the roots of their weights. A causal encoder writes most of what a
prompt says into its first end token, whatever words said it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from conceptguard.making.edits import (
    Edit,
    Kind,
    Place,
    Rows,
    Wording,
    channels,
    check_texts,
    read_places,
    rows_of_each,
    runs_of,
    sample,
    solve,
    streams_of,
    tensors_of,
    together,
    with_synonyms,
    wordings,
)
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.method import Settings
from conceptguard.runtime.encodings import ordinary_captions

from .places import Weights, places, weighed, words_places

if TYPE_CHECKING:
    from conceptguard.host import Host

TEMPLATES = [
    "{}", "{a}", "a photo of {a}", "a picture of {a}", "an image of {}", "a drawing of {a}", "a painting of {a}",
    "a photograph with {a} in it", "a close-up of {a}", "a person with {a}", "a scene with {a}", "a sketch of {}",
    "a poster of {a}", "{a} at night", "a detailed picture of {a}",
]  # fmt: skip


class TRCEMakeSettings(Settings):
    """How the first stage is solved.

    templates: wordings, {} or with an article {a}; the safe concept is put into the same ones
    weights: of the begin token, the first end token, the padding, and the concept's own tokens [0, 1, 0, 0]
    preserve_scale: weight of what stays, ordinary captions and kept prompts [0.0001; the authors' code squares 0.01]
    lamb: pull towards the old weights, as a share of the mean weight of a direction [0 with 30,000 captions, which span
        every direction; fewer do not]
    synonyms: words that the model's layers read as the concept are erased with it, and open its gate: those nearer to
        it than this share of the way to what must stay; 0: none [the authors list twenty words]
    compat: "official" counts words where the authors' code does, and squares preserve_scale as it does
    """

    templates: list[str] = TEMPLATES
    weights: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 0.0)
    preserve_scale: float = Field(default=1e-4, gt=0)
    lamb: float = Field(default=1e-6, ge=0)
    synonyms: float = Field(default=0.5, ge=0, lt=1)
    compat: Literal["paper", "official"] = "paper"


def learn(task: Task) -> Learned:
    """Solve the first stage for every layer that reads text; each concept becomes its replacement, or nothing.

    Raises PolicyError for prompts that cannot be erased, ArtifactError when there is no solution.
    """
    s = task.settings
    task.check(s.templates)
    task, also = with_synonyms(task, s.synonyms)
    streams = streams_of(task.host)
    words, kept = [w for one in task.each for w in wordings(one, s.templates)], task.kept(s.templates)
    texts = list(dict.fromkeys(["", *ordinary_captions(task.concept.prompts), *kept]))
    read = partial(read_ends, task.host, weights=Weights(*s.weights), by_words=s.compat == "official")
    found = rows_of_each(task, s.templates, texts, read)
    scale = s.preserve_scale ** (2 if s.compat == "official" else 1)
    edits = {kind: solved(rows, s.lamb, scale * len(words) / len(texts)) for kind, rows in found.items()}
    ranks = {stream.kind: len(edits[stream.kind].down) for stream in streams}
    tensors, metadata = tensors_of(edits, streams)
    return Learned(
        tensors,
        task.made(rank=ranks["states"], ranks=ranks),
        Opens([w.own for w in words], kept),
        # Steering takes one text: that of many concepts would say nothing of any.
        settings={"scale": 0.0} if task.several else {"nearer": True},
        metadata=metadata,
        also=also,
    )


def solved(rows: Rows, lamb: float, preserve_scale: float) -> Edit:
    """``solve`` with lamb as a share of the mean eigenvalue of all rows' products."""
    weight = rows.erased.double().square().sum() + preserve_scale * rows.preserved.double().square().sum()
    return solve(rows, lamb * float(weight) / rows.erased.shape[1], preserve_scale=preserve_scale)


def read_ends(
    host: Host, words: Sequence[Wording], kept: Sequence[str], weights: Weights, by_words: bool = False
) -> dict[Kind, Rows]:
    """The rows of every stream, scaled by the roots of their weights; of texts to keep all of them.

    by_words: positions are counted as the authors' code does, see ``words_places``. Raises PolicyError for a text that
    an encoder cuts, has no tokens for, or cannot tell from one that is to stay.
    """
    for encoder in host.encoders():
        check_texts(encoder, words, kept)
    empty, said = sample(host), channels(host)
    own, guided, stays = ([Place(text) for text in texts] for texts in (
        [w.own for w in words], [w.guided for w in words], kept))  # fmt: skip
    spoken = {}  # token states by encoder and text
    for i, encoder in enumerate(runs_of(host)):
        every = torch.arange(empty.embeds.shape[1])[encoder.tokens]
        for text in dict.fromkeys(place.text for place in (*own, *guided, *stays)):
            spoken[i, text] = Place(text, every)
    read = read_places(host, [*own, *guided, *stays, *spoken.values()])
    none = empty.embeds.new_zeros(0, len(said))
    erased, guide, preserved = [none], [none], [none]
    for i, encoder in enumerate(runs_of(host)):
        size = len(empty.embeds[0, encoder.tokens])
        found = words_places(words, size, weights) if by_words else places(encoder, words, size, weights)
        for word, where in zip(words, found):
            mine, safe = weighed(read[spoken[i, word.own]], read[spoken[i, word.guided]], where)
            erased.append(mine)
            guide.append(safe)
        preserved += [read[spoken[i, text]] for text in kept]
    rows: dict[Kind, Rows] = {"states": Rows(*(torch.cat(some) for some in (erased, guide, preserved)))}
    if empty.pooled is not None:
        mine, its, held = (together(read, some, empty.pooled) for some in (own, guided, stays))
        rows["pooled"] = Rows(weights.end**0.5 * mine, weights.end**0.5 * its, held)
    return rows
