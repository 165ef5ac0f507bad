"""What a model would say next, asked beside a generation that is under way and knows nothing of it.

With the cache of its last call that is one token's work: layers that grow by ``torch.cat`` are forked, since nothing is
written into what the running generation holds. Any other cache is left alone, and the text is read from its beginning.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...generation.decoding import Asked
    from .last_inputs import LastInputs

_GROWING = ("DynamicLayer", "DynamicSlidingWindowLayer")  # layers that never write into the tensors they have


class Foresight:
    """Of one model at one token.

    ids: [rows, tokens], what it has just given scores for; begin: how many of them are prompt
    asked, prompt_of: the prompts, and for every row which one it answers
    """

    def __init__(
        self, model: Any, inputs: LastInputs, encodes: bool, ids: Tensor, begin: int, asked: Asked,
        prompt_of: Sequence[int],
    ):  # fmt: skip
        self._model, self._inputs, self._encodes = model, inputs, encodes
        self._ids, self._begin, self._asked, self._of = ids, begin, asked, prompt_of

    @torch.no_grad()
    def __call__(self, rows: Sequence[int], more: Sequence[Sequence[int]]) -> Tensor | None:
        """Scores [n, vocabulary] after each of ``rows`` and as many tokens of ``more``; None where nobody can ask."""
        tokens = torch.tensor(more, device=self._ids.device)
        with self._inputs.about(len(self._ids), rows):
            given = None if self._encodes else self._from_cache(torch.tensor(rows, device=self._ids.device), tokens)
            if given is not None:
                return self._model(**given, return_dict=True).logits[:, -1]  # type: ignore[no-any-return]
        return self._anew(rows, tokens)

    def _from_cache(self, rows: Tensor, tokens: Tensor) -> dict[str, Any] | None:
        """What the model is called with; None where its cache cannot be forked, or is not of these ids."""
        cache, mask, positions = self._inputs.held()
        count, length = self._ids.shape
        if type(cache).__name__ != "DynamicCache" or getattr(cache, "offloading", False):
            return None
        if cache.get_seq_length() != length or any(type(layer).__name__ not in _GROWING for layer in cache.layers):
            return None
        given: dict[str, Any] = {"input_ids": tokens, "past_key_values": _fork(cache, rows), "use_cache": True}
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.shape != (count, length):
                return None
            given["attention_mask"] = torch.cat([mask[rows], mask.new_ones(tokens.shape)], 1)
        if positions is not None:
            last = positions[..., -1:]
            last = last if last.shape[-2] != count else last.index_select(-2, rows)
            given["position_ids"] = last + torch.arange(1, tokens.shape[1] + 1, device=last.device)
        return given

    def _anew(self, rows: Sequence[int], tokens: Tensor) -> Tensor | None:
        """The same by reading every text from its beginning: one by one, so that none is padded."""
        config = self._model.config
        if config.get_text_config() is not config and not self._encodes:
            return None  # it may have read more than text
        found = []
        for row, own in zip(rows, tokens):
            prompt = self._asked.ids[self._of[row]]
            if prompt is None:
                return None
            read = self._ids.new_tensor([prompt])
            with self._inputs.about(len(self._ids), [row]):
                found.append(self._read(read, row, own))
        return torch.stack(found)

    def _read(self, prompt: Tensor, row: int, own: Tensor) -> Tensor:
        if self._encodes:
            said = torch.cat([self._ids[row], own])[None]
            out = self._model(input_ids=prompt, decoder_input_ids=said, use_cache=False, return_dict=True)
        else:
            text = torch.cat([prompt[0], self._ids[row, self._begin :], own])[None]
            out = self._model(input_ids=text, use_cache=False, return_dict=True)
        return out.logits[0, -1]  # type: ignore[no-any-return]


def _fork(cache: Any, rows: Tensor) -> Any:
    """The same cache for some of its rows, which may be among them again and again."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in forked.layers:
        if layer.is_initialized and layer.keys.numel():
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
    return forked
