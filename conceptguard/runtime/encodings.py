"""What a text encoder makes of texts: their own tokens, and what ordinary captions look like to it.

Encodings of concept prompts are kept as long as the encoder lives, and for the last few by their weights, so that
attaching a thousand guards again costs no second reading. They hold only while the encoder says the same about a probe
and the tokenizer cuts texts alike.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..generation.conditioning import Encoded
from .kept_captions import keep, path_of, recall
from .once import once

Encode = Callable[[list[str]], Encoded]
PROBE = "a photo of a thing"


def ordinary_captions(without: Iterable[str] = ()) -> list[str]:
    """Everyday captions without any particular concept: the measure of what is unrelated.

    without: prompts of a concept; captions that contain one of them, in any case, are about it and left out
    """
    captions = (Path(__file__).parent / "captions.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return unnamed(captions, without)


def unnamed(captions: Iterable[str], prompts: Iterable[str]) -> list[str]:
    """The captions that contain none of the prompts, in any case."""
    named = [prompt.lower() for prompt in prompts]
    return [caption for caption in captions if not any(name in caption.lower() for name in named)]


def content(encoded: Encoded) -> list[Tensor]:
    """The encodings of each text's own tokens, [tokens, width] per row, without begin, end and padding."""
    return [e[1 : 1 + max(len(ids), 1)] for e, ids in zip(encoded.embeds, encoded.ids)]


SHRINKAGE = 0.1


def _whitening(centred: Tensor) -> Tensor:
    """[width, width], of tokens [tokens, width] about their mean.

    Encoders have a few huge directions that every noun shares. Shrinkage keeps those that captions hardly show.
    """
    count, width = centred.shape
    if count >= width:
        values, vectors = torch.linalg.eigh(centred.T @ centred / count)
        scale = (values.clamp(min=0) + SHRINKAGE * values.mean()).rsqrt()
        return vectors * scale @ vectors.T
    # A wide encoder's tokens span no more directions than there are tokens; all others are scaled alike.
    values, own = torch.linalg.eigh(centred @ centred.T / count)
    least = SHRINKAGE * values.clamp(min=0).sum() / width
    seen = values > 1e-6 * values.max()
    values, own = values[seen], own[:, seen]
    vectors = centred.T @ (own / (count * values).sqrt())
    scale = (values + least).rsqrt() - least.rsqrt()
    return torch.eye(width, device=centred.device) * least.rsqrt() + vectors * scale @ vectors.T


@dataclass(frozen=True)
class Ordinary:
    """What ordinary captions look like to one encoder.

    mean: the mean encoding of a content token, [width]; having: in how many captions a token id occurs
    whitening: [width, width] evens out the directions in which tokens of ordinary captions differ; None: as they are
    """

    mean: Tensor
    having: Counter[int]
    whitening: Tensor | None = None

    @classmethod
    def measure(cls, encode: Encode) -> Ordinary:
        """From the captions that ship with this package."""
        encoded = encode(ordinary_captions())
        return cls.of(content(encoded), encoded.ids)

    @classmethod
    def of(cls, own: Sequence[Tensor], ids: Sequence[Sequence[int]]) -> Ordinary:
        """From captions' own tokens, [tokens, width] each, and their ids."""
        tokens = torch.cat(list(own)).float()
        mean = tokens.mean(0)
        return cls(mean, counted(ids), _whitening(tokens - mean))

    def whiten(self, tokens: Tensor) -> Tensor:
        """Token encodings [..., width] without what all of them have in common."""
        centred = tokens.float() - self.mean.to(tokens.device)
        return centred if self.whitening is None else centred @ self.whitening.to(tokens.device)

    def weights(self, ids: Sequence[int]) -> list[float]:
        """How much each token of a text says about it; they sum to 1. A text without tokens has one, its end."""
        raw = [1 / (1 + self.having[token]) for token in ids] or [1.0]
        return [w / sum(raw) for w in raw]


def counted(ids: Iterable[Iterable[int]]) -> Counter[int]:
    """In how many texts each token id occurs."""
    return Counter(token for row in ids for token in set(row))


@dataclass
class EncodingCache:
    """Texts that one encoder has read. probe: what it said about ``PROBE`` then, [1, tokens, width].

    measured: what was found from these texts alone, by what it was asked for
    short: reads texts without padding, where the encoder says the same of them then (``agrees``; None: not asked yet)
    place: where what ordinary captions look like is kept between processes; tokens: of texts, as the encoder cuts them
    """

    probe: Tensor | None = None
    ordinary: Ordinary | None = None
    texts: dict[str, tuple[Tensor, list[int]]] = field(default_factory=dict)
    measured: dict[Hashable, Any] = field(default_factory=dict)
    short: Encode | None = None
    agrees: bool | None = None
    place: Path | None = None
    tokens: Callable[[list[str]], list[list[int]]] | None = None

    def read(self, texts: Sequence[str], encode: Encode) -> tuple[list[Tensor], list[list[int]]]:
        """Content encodings [tokens, width] and token ids of each text; what was read before is not read again."""
        new = [text for text in dict.fromkeys(texts) if text not in self.texts]
        portion = 256 if self.short else 64  # short ones are small, and a call takes longer than a few of them do
        for i in range(0, len(new), portion):
            part = new[i : i + portion]
            encoded = (self.short or encode)(part)
            for text, own, ids in zip(part, content(encoded), encoded.ids):
                self.texts[text] = own.float().clone(), ids
        found = [self.texts[text] for text in texts]
        return [own for own, _ in found], [ids for _, ids in found]

    def ordinary_of(self, encode: Encode) -> Ordinary:
        """Measured once, or taken from where it is kept."""
        if self.ordinary is None:
            captions = ordinary_captions()
            self.ordinary = self._recalled(captions)
        if self.ordinary is None:
            found = self.ordinary = Ordinary.of(*self.read(captions, encode))
            if self.place is not None and self.probe is not None:
                measured = {"probe": self.probe, "mean": found.mean}
                measured |= {} if found.whitening is None else {"whitening": found.whitening}
                keep(self.place, measured, {text: self.texts[text] for text in captions})
        return self.ordinary

    def _recalled(self, captions: list[str]) -> Ordinary | None:
        if self.place is None or self.probe is None or self.tokens is None:
            return None
        found = recall(self.place, self.probe, captions, self.tokens)
        if found is None or "mean" not in found[0]:
            return None
        measured, texts = found
        self.texts = {**texts, **self.texts}
        return Ordinary(measured["mean"], counted(row for _, row in texts.values()), measured.get("whitening"))


def lengths(host: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens texts have. While a policy is attached, those of all of its concepts may be asked for at once,
    and are then known: a tokenizer takes about as long for a text as for a thousand."""
    known: dict[str, int] = once(host, "lengths", dict)
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
        known.update(zip(new, map(len, host.tokens(new, whole=True))))
    return [known[text] for text in texts]


_known: weakref.WeakKeyDictionary[nn.Module, dict[str, EncodingCache]] = weakref.WeakKeyDictionary()
# Of the last encoders, by their weights: the same model loaded again reads nothing again.
_of_weights: OrderedDict[tuple[str, str], EncodingCache] = OrderedDict()
_KEPT = 8


def encoding_cache_of(
    encoders: Sequence[nn.Module], kind: str, encode: Encode, tokens: Callable[[list[str]], list[list[int]]],
    short: Encode | None = None, folder: Path | None = None,
) -> EncodingCache:  # fmt: skip
    """What text encoders have read already, they or others of the same weights; a blank sheet where these, or the
    tokenizer, changed since.

    encoders: all that ``encode`` asks; kind: which of their outputs it gives; short: reads them without padding
    folder: of the user's cache, where what ordinary captions look like is kept
    """
    kept = _known.setdefault(encoders[0], {})
    whole = encode([PROBE])
    found, probe = kept.get(kind), whole.embeds
    if found is None or found.probe is None or not _same(found.probe, probe):
        mark = _mark_of(encoders)
        found = kept[kind] = _begun(_of_weights.get((kind, mark)) if mark else None, probe)
        if mark:
            found.place = path_of(folder, kind, mark, ordinary_captions()) if folder else None
            _of_weights[kind, mark] = found
            _of_weights.move_to_end((kind, mark))
            while len(_of_weights) > _KEPT:
                _of_weights.popitem(last=False)
    now = tokens(list(found.texts))
    before = len(found.texts)
    found.texts = {text: (own, ids) for (text, (own, ids)), cut in zip(found.texts.items(), now) if cut == ids}
    if len(found.texts) < before:
        found.measured.clear()
    if short is not None and found.agrees is None:
        found.agrees = _alike(whole, short([PROBE]))
    found.short, found.tokens = short if found.agrees else None, tokens
    return found


def _alike(one: Encoded, other: Encoded) -> bool:
    """Whether two ways to read a text say the same of it, up to rounding."""
    (mine,), (theirs,) = content(one), content(other)
    if mine.shape != theirs.shape:
        return False
    eps = torch.finfo(mine.dtype).eps
    return bool((mine - theirs).abs().max() <= 256 * eps * mine.abs().max())


def _begun(other: EncodingCache | None, probe: Tensor) -> EncodingCache:
    """A sheet with what an equal encoder has read; a copy, since that one may be asked in another thread."""
    if other is None or other.probe is None or not _same(other.probe, probe):
        return EncodingCache(probe.clone())
    return EncodingCache(other.probe, other.ordinary, dict(other.texts), dict(other.measured), agrees=other.agrees)


def _mark_of(modules: Sequence[nn.Module]) -> str | None:
    """A short mark of the very weights of modules; None where they are not all at hand, as under offload.

    Sums of their bits, by place modulo 64 and by part, are made where the weights are: hashing every byte would take
    longer than some encoders do.
    """
    mark = hashlib.sha256()
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.device.type == "meta":
                return None
            mark.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
            whole = tensor.detach().reshape(-1).contiguous()
            bits = (whole.clone() if whole.storage_offset() else whole).view(torch.uint8)
            even = len(bits) - len(bits) % 512
            words = bits[:even].view(torch.int64)
            for sums in (words.view(-1, 64).sum(0), words.view(64, -1).sum(1), bits[even:]):
                mark.update(sums.cpu().numpy().tobytes())
    return mark.hexdigest()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
