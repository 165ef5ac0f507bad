"""Prompts as a pipeline's own encoding changes them before its tokenizer sees them, and the words in them that were
learnt: loaded into tokenizer and encoder by textual inversion, so that their letters say nothing."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...errors import SessionError
from ...generation.unlisted import Unlisted
from .quiet import quiet

NEAR = 0.8  # cosine of input vectors from which a learnt word is taken for an ordinary one


def as_encoded(pipe: Any, texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Texts as the tokenizer is given them: cleaned where the pipeline cleans them, and with every vector of a learnt
    word of several."""
    found = list(texts)
    if (clean := _cleaning(type(pipe))) is not None:
        found = [clean(text) for text in found]
    if learnt_ids(tokenizer) and hasattr(pipe, "maybe_convert_prompt"):
        found = [pipe.maybe_convert_prompt(text, tokenizer) for text in found]
    return found


def _cleaning(cls: type) -> Any:
    """The function of a pipeline's own module that its encoding sends prompts through; None for most."""
    found = (getattr(sys.modules.get(base.__module__), "prompt_clean", None) for base in cls.__mro__)
    return next((function for function in found if function is not None), None)


def learnt_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that were added to a tokenizer; those that it marks texts with are not."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    named = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")}
    own = int(tokenizer.vocab_size)
    return frozenset(int(i) for i, token in added.items() if i not in named and (i >= own or not token.special))


@contextmanager
def knowing(pipe: Any, words: Mapping[str, Tensor]) -> Iterator[None]:
    """Meanwhile the pipeline has learnt words, each with its input vector [hidden], as ``load_textual_inversion`` loads
    them. Raises SessionError for a pipeline that cannot.

    Afterwards it has the very tokenizer and vectors that it had. Unloading as diffusers does leaves a tokenizer that
    writes texts otherwise; so does a copy of one, which is therefore only read with.
    """
    if not words:
        yield
        return
    if not hasattr(pipe, "load_textual_inversion"):
        raise SessionError(f"{type(pipe).__name__} loads no learnt words (textual inversion)")
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    table, size = encoder.get_input_embeddings(), encoder.config.vocab_size
    vectors, count = table.weight.data, table.num_embeddings
    pipe.tokenizer = copy.deepcopy(tokenizer)
    try:
        with quiet():
            for word, vector in words.items():
                pipe.load_textual_inversion({word: vector.detach().cpu()[None]}, token=word)
        yield
    finally:
        pipe.tokenizer = tokenizer
        table.weight.data, table.num_embeddings = vectors, count  # resized in place
        encoder.set_input_embeddings(table)
        encoder.config.vocab_size = size


class LearntWords:
    """Which texts have learnt words, for every tokenizer of a pipeline. One that is loaded later is seen, too."""

    def __init__(self, pipe: Any):
        self._pipe = pipe
        self._nearest: dict[tuple[Any, ...], dict[int, int]] = {}

    def any(self) -> bool:
        """Whether any tokenizer has learnt a word."""
        return any(map(learnt_ids, self._tokenizers()))

    def mark(self, ids: list[int], name: str, text: str | None = None) -> list[int]:
        """Ids as they are, or unlisted where the text has a learnt word.

        name: of the tokenizer's text encoder; text: also what the other tokenizers are given
        """
        tokenizer = getattr(self._pipe, name.replace("text_encoder", "tokenizer"))
        learnt = learnt_ids(tokenizer)
        found = not learnt.isdisjoint(ids)
        if not found and text is not None:
            found = any(self._has(text, other) for other in self._others(tokenizer))
        if not found:
            return ids
        near = self._near(name, tokenizer, learnt)
        return Unlisted(ids, [near.get(i, i) for i in ids])

    def _others(self, tokenizer: Any) -> list[Any]:
        return [other for other in self._tokenizers() if other is not tokenizer and learnt_ids(other)]

    def _tokenizers(self) -> list[Any]:
        found = [getattr(self._pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        return [tokenizer for tokenizer in found if tokenizer is not None]

    def _has(self, text: str, tokenizer: Any) -> bool:
        found = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return not learnt_ids(tokenizer).isdisjoint(found)

    @torch.no_grad()
    def _near(self, name: str, tokenizer: Any, learnt: frozenset[int]) -> dict[int, int]:
        """For each learnt id the ordinary one whose vector is nearest, where that is near."""
        encoder = getattr(self._pipe, name, None)
        weight: Tensor | None = None if encoder is None else encoder.get_input_embeddings().weight
        if weight is None or weight.device.type == "meta":
            return {}
        key = (name, weight.data_ptr(), weight.shape, weight._version if not weight.is_inference() else 0, learnt)
        if key not in self._nearest:
            mine = sorted(i for i in learnt if i < len(weight))
            ordinary = torch.ones(len(weight), dtype=torch.bool)
            ordinary[mine] = False
            known = ordinary.nonzero()[:, 0]
            like = normalize(weight[mine].float(), dim=1) @ normalize(weight[known.to(weight.device)].float(), dim=1).T
            best, at = like.max(1)
            self._nearest = {key: {i: int(known[a]) for i, b, a in zip(mine, best.tolist(), at.tolist()) if b >= NEAR}}
        return self._nearest[key]
