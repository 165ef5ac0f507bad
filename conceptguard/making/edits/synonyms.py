"""Words that a denoiser reads as a concept though nobody named them: "gun" beside "pistol".

Compared is what its layers make of a text's end token, into which a causal encoder writes most of what was said. A word
is the concept's where it lies nearer to one of its prompts than a share of the way from there to whatever must stay,
and of the way to the hundredth word: no concept has so many names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...text.words import stands_in
from ..templates import fill
from .rows import channels, runs_of, sample
from .solver import products
from .streams import streams_of

if TYPE_CHECKING:
    from ...host import Host
    from ...protocols import TextEncoder
    from ..task import Task

NAMES = 100  # of a concept there are fewer
PORTION = 2048  # words that are read at a time
FRAME = "{a}"


def with_synonyms(task: Task, share: float) -> tuple[Task, list[str]]:
    """The task with the words that were found as further prompts of its concept; and these words, nearest first.

    share: see ``synonyms``; 0 looks for none. Of several concepts at once none are looked for.
    """
    concept = task.concept
    if not share or task.several:
        return task, []
    found = synonyms(task.host, concept.prompts, [*task.preserve, concept.replacement], share, task)
    return replace(task, concept=concept.model_copy(update={"prompts": [*concept.prompts, *found]})), found


def synonyms(host: Host, prompts: Sequence[str], stays: Sequence[str], share: float, task: Task) -> list[str]:
    """Words of a causal encoder's lexicon that layers read as a concept, nearest first; none without such an encoder.

    stays: what is no such word, beside the empty prompt; share: of the distance from a prompt to the nearest of these,
    or to the ``NAMES``-th nearest word, whichever is less. Left out is what one of the prompts stands in, which names
    the concept anyway; what stands in one of them, since the whole was named; and what stands in something to keep.
    """
    encoder = next((one for one in runs_of(host) if one.begins), None)
    if encoder is None:
        return []
    heard, words = _heard(host, encoder), list(encoder.lexicon())
    own, kept = (_ends(encoder, list(dict.fromkeys(texts))) @ heard for texts in (prompts, ["", *stays]))
    away = torch.cdist(own, _lexicon(host, encoder, words, task) @ heard)
    strange = away.kthvalue(min(NAMES, len(words)), dim=1).values
    limit = share * torch.minimum(torch.cdist(own, kept).amin(1), strange)
    nearest = (away / limit.clamp(min=1e-9)[:, None]).amin(0)
    found = [words[i] for i in nearest.argsort().tolist() if nearest[i] < 1]
    return [
        word for word in found
        if not any(stands_in(prompt, word) for prompt in prompts)
        and not any(stands_in(word, text) for text in (*prompts, *stays))
    ]  # fmt: skip


def _lexicon(host: Host, encoder: TextEncoder, words: Sequence[str], task: Task) -> Tensor:
    """The end tokens of all words. Read once, as long as the encoder says the same."""
    measured, key = host.encoding_cache().measured, ("lexicon", encoder.name)
    if key not in measured:
        parts = []
        with task.bar(len(words), ", lexicon") as tick:
            for i in range(0, len(words), PORTION):
                parts.append(_ends(encoder, words[i : i + PORTION]))
                tick(min(i + PORTION, len(words)) - 1)
        measured[key] = torch.cat(parts)
    found: Tensor = measured[key]
    return found


def _ends(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """The end token's state of each text in a frame, [texts, width], fp32 on the CPU."""
    ids = encoder.ids([fill(FRAME, text) for text in texts])
    states, _ = encoder.encode(ids)
    assert states is not None  # ``runs_of`` has none without
    return torch.stack([row[len(own) + 1] for row, own in zip(states, ids)]).float().cpu()


def _heard(host: Host, encoder: TextEncoder) -> Tensor:
    """R [width, d] such that states which differ by x are |x R| apart in what all layers make of them."""
    said, own = channels(host).cpu(), torch.arange(sample(host).embeds.shape[-1])[encoder.width]
    inside, speaks = torch.isin(said, own), torch.isin(own, said)
    gram = sum(products(part, part) for part in (w[:, inside].cpu() for w in streams_of(host)[0].weights.values()))
    values, vectors = torch.linalg.eigh(gram)  # type: ignore[arg-type]
    found = torch.zeros(len(own), len(values))
    found[speaks] = (vectors * values.clamp(min=0).sqrt()).float()
    return found
