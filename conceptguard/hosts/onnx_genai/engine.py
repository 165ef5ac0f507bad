"""Rows that onnxruntime-genai's own generator says, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConceptGuardError, GuardError, SessionError

_ASKED = ("get_logits", "set_logits", "generate_next_token", "rewind_to", "append_tokens", "token_count")


def engine() -> Any:
    """The package. Raises ConceptGuardError where it is not installed, SessionError for a release that this host does
    not know."""
    try:
        import onnxruntime_genai as package
    except ImportError as error:
        raise ConceptGuardError(
            f"onnxruntime-genai cannot be imported ({error}): pip install 'conceptguard[onnx]'"
        ) from error
    generator = getattr(package, "Generator", None)
    missing = [name for name in _ASKED if not hasattr(generator, name)]
    if missing:
        raise SessionError(
            f"this onnxruntime-genai has no Generator.{missing[0]}, without which no guard is asked about a token: "
            "install onnxruntime-genai 0.18 or later"
        )
    return package


class Run:
    """One generator: prompts without padding, one a row, and what it says to them.

    room: tokens that it may say at most; search: the engine's search options. Raises ValueError for what the engine
    does not take.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], room: int, search: Mapping[str, Any], pad: int):
        package = engine()
        self._rows, width = len(prompts), max(map(len, prompts))
        params = package.GeneratorParams(model)
        try:
            params.set_search_options(batch_size=self._rows, max_length=width + room, **search)
            self._generator = package.Generator(model, params)
            padded = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
            self._generator.append_tokens(np.array(padded, dtype=np.int32))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"onnxruntime-genai does not take this: {error}") from error
        self._length, self._last = width, [int(prompt[-1]) for prompt in prompts]

    @property
    def done(self) -> bool:
        """Whether every row has ended, or there is no room left."""
        return bool(self._generator.is_done())

    def scores(self) -> Tensor:
        """Of the next token, [rows, vocabulary], a copy."""
        found = self._generator.get_logits()
        self._count(self._length)  # asked after ``rewind_to`` it says one by itself first
        return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)).reshape(self._rows, -1)

    def settle(self, scores: Tensor) -> None:
        """The next token is chosen by these."""
        self._generator.set_logits(scores.reshape(self._rows, 1, -1).numpy())

    def next(self) -> list[int]:
        """One more token for every row; of rows that have ended, padding."""
        self._generator.generate_next_token()
        self._length += 1
        self._count(self._length, self._length - self.done)  # the last one of all may not be counted
        self._last = [int(token) for token in self._generator.get_next_tokens()]
        return list(self._last)

    def back(self, said: Sequence[int], length: int) -> None:
        """As it was after ``length`` tokens of its one row, of which ``said`` are the last.

        One further back, and the last one given again: the engine has no scores after it has gone back, and makes up
        for it by a token of its own.
        """
        self._generator.rewind_to(length - 1)
        self._generator.append_tokens(np.array([said[-1:]], dtype=np.int32))
        self._length = length

    def _count(self, *expected: int) -> None:
        if (found := int(self._generator.token_count())) not in expected:
            raise GuardError(
                f"onnxruntime-genai has {found} tokens where the guards know of {expected[0]}, and was to say none by "
                "itself: generate without drafts and guidance"
            )
