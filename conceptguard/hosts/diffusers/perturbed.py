"""Perturbed-attention guidance in classic pipelines (Ahn et al. 2024): prompts whose rows come a second time, last in a
call, where some self-attention layers are perturbed for them and see these rows apart from the others.

Guards see each prompt once; what they make of its row holds for the perturbed one, so that the difference between the
two, which the picture is drawn along, is the guarded model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Perturbed:
    """The perturbed attention of one pipeline, where it has any."""

    def __init__(self, pipe: Any, model: nn.Module):
        self._pipe, self._model = pipe, model
        self._has = hasattr(type(pipe), "do_perturbed_attention_guidance")
        self._own: dict[nn.Module, Any] = {}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A call of the pipeline, which puts processors of its own into layers and leaves them there if it raises."""
        if not self._has:
            yield
            return
        self._own = {m: m.processor for m in self._model.modules() if hasattr(m, "processor")}
        try:
            yield
        finally:
            for layer, own in self._own.items():
                layer.processor = own
            self._own = {}

    @contextmanager
    def unperturbed(self) -> Iterator[None]:
        """Meanwhile the model's attention is its own."""
        here = [(layer, layer.processor, own) for layer, own in self._own.items() if layer.processor is not own]
        for layer, _, own in here:
            layer.processor = own
        try:
            yield
        finally:
            for layer, perturbed, _ in here:
                layer.processor = perturbed

    def count(self, rows: int) -> int:
        """How many rows at the end of such a call are perturbed. For calls that the pipeline makes."""
        if not (self._has and self._pipe.do_perturbed_attention_guidance):
            return 0
        return rows // (3 if self._pipe.do_classifier_free_guidance else 2)


def twice(value: Tensor, last: int) -> Tensor:
    """The last rows once more."""
    return torch.cat([value, value[-last:]]) if last else value


def alike(changed: Tensor, prediction: Tensor) -> Tensor:
    """What guards made of the first rows of a prediction [rows, ...], and the same change of the perturbed ones."""
    seen = len(changed)
    if seen == len(prediction):
        return changed
    last = len(prediction) - seen
    return torch.cat([changed, prediction[seen:] + (changed - prediction[:seen])[-last:]])
