"""What a sparse autoencoder knows of a concept: its features, and from which score on a text has the concept in it.

A feature is the concept's if it is among the strongest of one of its phrases and clearly weaker in everything that is
kept. The score of a text is what these features write at its strongest token, the end included: per text, whatever
the batch, and not a mean that every other word thins out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.making.templates import fill
from conceptguard.protocols import TextEncoder
from conceptguard.text.words import stands_in

from .sae import SAE, Codes

if TYPE_CHECKING:
    from conceptguard.host import Host

Answer = tuple[Tensor | None, Tensor | None]  # states [rows, window + 2, width], pooled [rows, width]

TOP, RATIO = 16, 1.25  # how features are chosen unless a policy says otherwise; see ItDSettings
WORDINGS = 6  # of the training templates, in which features are looked for
LEAST_GAP = 0.02  # of the concept's median score: what is below counts as nothing


@dataclass
class Dictionary:
    """The autoencoder of one text encoder, and what it has read.

    kept, peaks: words and captions that stay, and how active each feature is in them at most, [kept, features]
    apart, codes: texts that no feature is chosen by, for the threshold: [apart, positions, k]
    """

    encoder: TextEncoder
    layer: int
    sae: SAE
    kept: list[str]
    peaks: Tensor
    apart: list[str]
    codes: Codes

    def read(self, texts: Sequence[str]) -> tuple[Codes, Tensor]:
        """Codes [windows, positions, k] of texts and to which text each window belongs. Long texts are several."""
        size = self.encoder.window
        ids = [own or [] for own in self.encoder.ids(texts, whole=True)]
        windows = [(t, own[i : i + size]) for t, own in enumerate(ids) for i in range(0, max(len(own), 1), size)]
        found: list[Codes] = []

        def keep(states: Tensor) -> Tensor:
            found.append(self.sae.to(states.device).encode(states[:, 1:]))
            return states

        self.encoder.through([own for _, own in windows], self.layer, keep)
        joined = Codes(torch.cat([c.index for c in found]), torch.cat([c.value for c in found]))
        lengths = [len(own) for _, own in windows]
        return spoken(joined, lengths), torch.tensor([t for t, _ in windows])

    def peaks_of(self, texts: Sequence[str]) -> Tensor:
        """How active each feature is at most in each text, [texts, features], on the CPU."""
        codes, owner = self.read(texts)
        peaks = codes.peaks(len(self.sae)).cpu()
        return peaks.new_zeros(len(texts), len(self.sae)).scatter_reduce_(
            0, owner.view(-1, 1).expand_as(peaks), peaks, "amax"
        )

    def scores_of(self, texts: Sequence[str], features: Tensor) -> Tensor:
        """The score of each text, [texts], on the CPU. features: [features] bool."""
        codes, owner = self.read(texts)
        scores = score(self.sae, codes, features)
        return scores.new_zeros(len(texts)).scatter_reduce_(0, owner, scores, "amax")


def encoders_of(host: Host, label: str) -> Sequence[TextEncoder]:
    """The text encoders of a model, all of them CLIP's. Raises PolicyError for others."""
    encoders = [] if host.generates == "text" else host.encoders()
    for encoder in encoders:
        if not encoder.begins:
            raise PolicyError(
                f"'{label}': {encoder.name} of {host.name} is a {type(encoder.module).__name__}, and itd works on CLIP "
                "text encoders, as Stable Diffusion 1.x, 2.x and SDXL have: use safree here"
            )
    if not encoders:
        raise PolicyError(f"'{label}': {host.name} has no text encoders, which itd works on")
    return encoders


def spoken(codes: Codes, lengths: Sequence[int]) -> Codes:
    """Nothing behind each text's end token: its padding repeats what was said. codes: [rows, positions, k]."""
    last = torch.tensor(lengths, device=codes.index.device).view(-1, 1, 1)
    places = torch.arange(codes.index.shape[1], device=codes.index.device).view(1, -1, 1)
    return Codes(codes.index, codes.value * (places <= last))


def written(sae: SAE, codes: Codes, features: Tensor) -> Tensor:
    """Mean square of what features write at each position, [rows, positions], on the CPU."""
    sae = sae.to(codes.index.device)
    return sae.shift(codes, features.to(codes.index.device), 0.0).pow(2).mean(-1).cpu()


def score(sae: SAE, codes: Codes, features: Tensor) -> Tensor:
    """The same at the strongest position, [rows]."""
    return written(sae, codes, features).amax(-1)


def wordings(templates: Sequence[str]) -> list[str]:
    """A few templates, evenly spread."""
    step = max(1, len(templates) // WORDINGS)
    return list(templates[::step][:WORDINGS])


def about(phrases: Sequence[str], text: str) -> bool:
    """Whether a text names a phrase, or a phrase names the text."""
    return any(stands_in(phrase, text) or stands_in(text, phrase) for phrase in phrases)


def features_of(
    dictionary: Dictionary, phrases: Sequence[str], templates: Sequence[str], top: int, ratio: float, label: str
) -> Tensor:
    """The features of a concept, [features] bool: of each phrase the ``top`` strongest that are ``ratio`` times as
    strong as in anything kept. Raises PolicyError for a phrase without a feature of its own.
    """
    others = [i for i, text in enumerate(dictionary.kept) if not about(phrases, text)]
    kept, few = dictionary.peaks[others], wordings(templates)
    limit = kept.amax(0) if others else torch.zeros(len(dictionary.sae))
    peaks = dictionary.peaks_of([fill(t, phrase) for phrase in phrases for t in few])
    by_phrase = peaks.view(len(phrases), len(few), -1).amax(1)
    chosen = torch.zeros(len(dictionary.sae), dtype=torch.bool)
    for phrase, own in zip(phrases, by_phrase):
        for bar in (ratio * limit, limit):  # what the encoder hardly tells from something kept has less to choose from
            strongest = own.masked_fill(own <= bar, 0.0).topk(min(top, len(own)))
            mine = strongest.indices[strongest.values > 0]
            if len(mine):
                break
        chosen[mine] = True
        if not len(mine):
            best = (own / (limit + 1e-6)).argmax()
            near = [dictionary.kept[i] for i, peak in zip(others, kept[:, best]) if float(peak) >= own[best]]
            raise PolicyError(
                f"guard '{label}': to this autoencoder '{phrase[:60]}' is like {', '.join(map(repr, near[:6]))}"
                f", which {'is' if len(near) == 1 else 'are'} kept: if it is the same thing, give that as prompts too; "
                "else leave this one out, or make an autoencoder with more features"
            )
    return chosen


@dataclass(frozen=True)
class Threshold:
    """From which score on a text has the concept in it; missed, flagged: shares of calibration texts it is wrong on."""

    value: float
    missed: float
    flagged: float


def threshold_of(
    dictionary: Dictionary, phrases: Sequence[str], calibration: Sequence[str], features: Tensor
) -> Threshold:
    """Where fewest calibration texts are on the wrong side: wordings that neither training nor features saw."""
    texts = [fill(t, phrase) for phrase in phrases for t in calibration]
    own = dictionary.scores_of(texts, features)
    others = [i for i, text in enumerate(dictionary.apart) if not about(phrases, text)]
    codes = Codes(dictionary.codes.index[others], dictionary.codes.value[others])
    kept = score(dictionary.sae, codes, features) if others else torch.zeros(1)
    value = between(own, kept)
    return Threshold(value, _share(own < value), _share(kept >= value))


def between(own: Tensor, kept: Tensor) -> float:
    """Where the shares of ``own`` [n] below and of ``kept`` [m] above add up to the least, half-way on a logarithmic
    scale to the next scores: of several such places the widest gap. The authors take 0.99 of the least of ``own``,
    which one odd text pulls down to anything.
    """
    floor = max(LEAST_GAP * float(own.median()), 1e-6)
    scores = torch.cat([own, kept, own.new_tensor([0.0])]).clamp_min(floor).unique()
    if len(scores) == 1:
        return float(scores[0])
    middles = (scores[:-1] * scores[1:]).sqrt()
    wrong = (own < middles.view(-1, 1)).float().mean(1) + (kept >= middles.view(-1, 1)).float().mean(1)
    gaps = (scores[1:] / scores[:-1]).masked_fill(wrong > wrong.min() + 1e-6, 0.0)
    return float(middles[gaps.argmax()])


def _share(hits: Tensor) -> float:
    return round(float(hits.float().mean()), 4)


@dataclass
class Found:
    """The concept in one prompt, as one encoder reads it: score over threshold, those of its phrases that stand there
    word for word, the tokens above the threshold, features."""

    ratio: float
    named: list[str]
    words: list[str]
    numbers: list[int]


@dataclass
class Own:
    """A concept in one text encoder: its features, [features] bool, the score from which on a text has it, and its
    phrases with their token ids."""

    dictionary: Dictionary
    features: Tensor
    threshold: float
    phrases: Mapping[str, Sequence[int]]

    def find(self, ids: Sequence[Sequence[int]]) -> tuple[list[Found], Answer]:
        """What is found in prompts by their token ids, and what the encoder itself makes of them."""
        encoder, sae = self.dictionary.encoder, self.dictionary.sae
        found: list[Found] = []

        def look(states: Tensor) -> Tensor:
            part = ids[len(found) : len(found) + len(states)]
            codes = spoken(sae.to(states.device).encode(states[:, 1:]), [len(row) for row in part])
            sizes = written(sae, codes, self.features)
            active = codes.only(self.features.to(codes.index.device)) > 0
            for row, size, index, mine in zip(part, sizes, codes.index, active):
                tokens = [token for token, s in zip(row, size.tolist()) if s >= self.threshold]
                words = encoder.words(list(dict.fromkeys(tokens)))
                numbers = sorted(set(index[mine].tolist()))
                named = [phrase for phrase, said in self.phrases.items() if _follows(said, row)]
                found.append(Found(float(size.max()) / max(self.threshold, 1e-12), named, words, numbers))
            return states

        answer = encoder.through(ids, self.dictionary.layer, look)
        return found, answer

    def deactivated(self, ids: Sequence[Sequence[int]], multiplier: float, reconstruct: bool) -> Answer:
        """What the encoder makes of prompts with the features multiplied, everywhere but at the begin token."""

        def change(states: Tensor) -> Tensor:
            sae, said = self.dictionary.sae.to(states.device), states[:, 1:].float()
            codes = sae.encode(said)
            base = sae.decode(codes) if reconstruct else said
            new = base + sae.shift(codes, self.features.to(states.device), multiplier)
            return torch.cat([states[:, :1], new.to(states.dtype)], dim=1)

        return self.dictionary.encoder.through(ids, self.dictionary.layer, change)


def _follows(phrase: Sequence[int], row: Sequence[int]) -> bool:
    """Whether a phrase's tokens follow one another somewhere in a row's. CLIP's tokens end with their words."""
    size = len(phrase)
    return any(list(row[i : i + size]) == list(phrase) for i in range(len(row) - size + 1)) if size else False
