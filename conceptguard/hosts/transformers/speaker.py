"""A language model as trainings ask it: rows of ids at once, with gradients towards what lies beside its layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ...errors import SessionError
from ...runtime.frozen import frozen
from .head import through_head


class Speaker:
    """See ``protocols.Speaker``. Raises SessionError for a model that has an encoder, or layers without gradients.

    part: a module by its name, after ``model.``; asked: entered around every call of the model
    """

    def __init__(
        self, model: Any, part: Callable[[str], Any], asked: Callable[[], AbstractContextManager[None]]
    ):  # fmt: skip
        if model.config.is_encoder_decoder:
            raise SessionError(
                f"a {type(model).__name__} has an encoder and a decoder, and trainings are for one stack of layers: "
                "give a decoder-only model"
            )
        # A weight that is a function is packed by torch's quantiser.
        packed = (name for name, one in model.named_modules() if isinstance(getattr(one, "weight", None), MethodType))
        if (name := next(packed, None)) is not None:
            raise SessionError(
                f"layer {name} is packed by a quantiser, and no gradient goes through it: train on the model in 16 or "
                "32 bits; what is made of it also acts beside quantised layers"
            )
        self._model, self._part, self._asked = model, part, asked

    @property
    def device(self) -> torch.device:
        """Where the model is asked."""
        return torch.device(self._model.device)

    def __call__(self, ids: Tensor, mask: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Scores of the next tokens, [rows, tokens, vocabulary], float32. pixels: of the pictures that stand in rows"""
        seen = {} if pixels is None else {"pixel_values": pixels}
        with self._asked():
            found: Tensor = self._model(
                input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True, **seen
            ).logits
        return found.float()

    def states(self, ids: Tensor, mask: Tensor, block: str) -> Tensor:
        """What a block gives, [rows, tokens, width], float32. Raises BaseMismatch where it is not there."""
        given: list[Tensor] = []

        def written(module: Any, args: Any, out: Any) -> None:
            given.append(out[0] if isinstance(out, tuple) else out)

        handle = self._part(block).register_forward_hook(written)
        try:
            self(ids, mask)
        finally:
            handle.remove()
        return given[0].float()

    def lens(self, ids: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """What the head reads in every layer's states, embeddings first, at some tokens: [layers, n, vocabulary],
        float32. at: [rows, tokens], true at these. Raises BaseMismatch for a model without a head or its norm."""
        with self._asked():
            states = self._model(
                input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True, output_hidden_states=True
            ).hidden_states
        last = len(states) - 1  # which has been through the norm
        return torch.stack([through_head(self._model, one[at], normed=i < last) for i, one in enumerate(states)])

    def frozen(self) -> AbstractContextManager[None]:
        """No gradients for the model's own weights and no dropout meanwhile."""
        return frozen(self._model)
