"""Gates for terms beside a text encoder's own layers, which act before there is an embedding to open them by.

Of several encoders none opens by itself: a small one takes one word for another where all of them together do not. What
is encoded is read by all of them first, as the denoiser's gates read it and as in ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ...generation.conditioning import Encoded
from ...runtime.bank import running
from ...runtime.turns import Turn
from .reading import ENCODERS

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from .learnt_words import LearntWords
    from .sides import Sides


class _Host(Protocol):
    pipe: Any
    learnt: LearntWords
    denoiser_name: str

    def compiled(self) -> bool: ...

    def device_dtype(self) -> tuple[torch.device, torch.dtype]: ...

    def components(self) -> dict[str, nn.Module]: ...

    def read(self, texts: list[str]) -> Encoded: ...

    def turn(self) -> Turn: ...


class EncoderGates:
    """Gates for terms beside a text encoder's layers, from what the encoders say without them."""

    def __init__(self, host: _Host, name: str, sides: Sides):
        self._host, self._name, self._sides, self._busy = host, name, sides, False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Encode once with the terms closed, open them by the result."""
        side, turn = self._sides.at_work(), self._host.turn()
        by = running.get()
        if side is None or by not in (None, side.session) or (self._busy and turn.mine):
            return
        if by is None or not turn.mine:
            turn.begin(self)
        session, adapters = side.session, side.adapters.get(self._name)
        if adapters is None:  # this policy has no terms here
            return
        self._busy = True
        try:
            session.banks.traced = self._host.compiled()
            session.banks.set(self._name, None)
            adapters.begin()
            adapters.check()
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            with torch.no_grad():
                gates = self._together(session, ids) if self._several() else self._alone(session, module, ids)
            session.banks.set(self._name, gates)
            session.read_with(self._name, gates)
        finally:
            self._busy = False

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Close again: the next text has gates of its own."""
        side = self._sides.at_work()
        if side is None or self._name not in side.adapters:
            return
        session = side.session
        if not self._busy and running.get() in (None, session):
            session.banks.verify(self._name)
            session.banks.set(self._name, None)

    def ended(self, module: nn.Module, args: Any, output: Any) -> None:
        """A call ended, or raised."""
        if not self._busy:
            self._host.turn().end(self)

    def _several(self) -> bool:
        return len(set(ENCODERS) & set(self._host.components())) > 1

    def _together(self, session: DrawingSession, ids: Tensor) -> Tensor:
        """By what all encoders say of the text that these ids are."""
        read = self._host.read(self._tokenizer().batch_decode(self._words(ids)))
        return session.gate_bank(self._host.denoiser_name, self._host.read)(read.embeds, read.ids)

    def _alone(self, session: DrawingSession, module: nn.Module, ids: Tensor) -> Tensor:
        bank = session.gate_bank(self._name, self._encode)
        return bank(self._states(module, ids), self._strip(ids))

    def _tokenizer(self) -> Any:
        return getattr(self._host.pipe, self._name.replace("text_encoder", "tokenizer"))

    def _encode(self, texts: list[str]) -> Encoded:
        tokens = self._tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        module = self._host.components()[self._name]
        return Encoded(self._states(module, tokens.to(self._host.device_dtype()[0])), self._strip(tokens))

    def _states(self, module: nn.Module, ids: Tensor) -> Tensor:
        # Not output_hidden_states: for that, transformers leaves hooks of its own on every layer.
        return module(ids).last_hidden_state

    def _strip(self, ids: Tensor) -> list[list[int]]:
        return [self._host.learnt.mark(row, self._name) for row in self._words(ids)]

    def _words(self, ids: Tensor) -> list[list[int]]:
        special = set(self._tokenizer().all_special_ids)
        return [[t for t in row if t not in special] for row in ids.tolist()]
