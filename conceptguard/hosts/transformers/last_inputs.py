"""What a model was given last. A processor is shown ids only: not always those that the model read, nor always those
that it answered.

Drafts are tried on made-up scores, or on those of another model; a filled cache holds a prompt of which ``generate``
knows the end; embeddings are no text at all.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import GuardError
from ...generation.decoding import Answer
from .model_lock import speaks

CACHES = ("past_key_values", "cache", "cache_params")  # what releases and models call it


class LastInputs:
    """Listens to a model for as long as it lives, or until ``stop``. Keeps no cache alive."""

    def __init__(self, model: nn.Module, encodes: bool):
        self._model = model
        self._ids = "decoder_input_ids" if encodes else "input_ids"
        self._read: tuple[Tensor | None, Tensor | None] = None, None  # ids and mask that an encoder read last
        self._wrote: Tensor | None = None  # what it made of them
        self._used: weakref.ref[Tensor] | None = None  # what the model was given of an encoder's
        self._calls = 0
        self._given: Tensor | None = None
        self._mask: Tensor | None = None  # of the last call, over all that it could look at
        self._positions: Tensor | None = None
        self._cache: weakref.ref[Any] | None = None
        self._deaf = 0
        self._asking: tuple[int, Sequence[int]] | None = None
        self._answered, self._sure = 0, False
        self._about: Tensor | None = None  # what scores of the last answer were first asked for
        self._cached = False  # whether the last call had a cache
        self._begun = False  # whether one began with an empty one
        # A model that stands in another one may be called past it, and is called by it.
        self._plain = sum(map(speaks, model.modules())) == 1
        self._texts: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()
        self._handles: list[Any] = []
        self._config = getattr(getattr(model, "base_model", model), "config", None)
        self._layers = getattr(self._config, "num_hidden_layers", None)

    def listen(self) -> None:
        """Begin. Nothing is held on to that the model does not hold on to itself."""
        me = weakref.ref(self)

        def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not torch.compiler.is_dynamo_compiling() and (here := me()) is not None:
                here._hear(args, kwargs)

        def reads(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            here, ids = me(), kwargs.get("input_ids", args[0] if args else None)
            if here is not None and not here._deaf:
                here._read, here._wrote = (ids, kwargs.get("attention_mask")), None

        def writes(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if (here := me()) is not None and not here._deaf:
                here._wrote = output[0]

        self._handles = [self._model.register_forward_pre_hook(called, with_kwargs=True)]
        if self._ids != "input_ids":
            encoder = self._model.get_encoder()  # type: ignore[operator]
            self._handles.append(encoder.register_forward_pre_hook(reads, with_kwargs=True))
            self._handles.append(encoder.register_forward_hook(writes))
        for handle in self._handles:
            weakref.finalize(self, handle.remove)

    def stop(self) -> None:
        """Forget everything."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._given, self._cache = [], None, None
        self._mask = self._positions = None
        self._read, self._wrote, self._used = (None, None), None, None
        self._texts.clear()

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """What the model is called with here is no text of a row: drafts, or a guard's own reading."""
        self._deaf += 1
        try:
            yield
        finally:
            self._deaf -= 1

    @contextmanager
    def about(self, count: int, rows: Sequence[int]) -> Iterator[None]:
        """The same, and a call is about these of so many rows."""
        before, self._asking = self._asking, (count, rows)
        try:
            with self.deaf():
                yield
        finally:
            self._asking = before

    @property
    def asking(self) -> tuple[int, Sequence[int]] | Literal["nothing"] | None:
        """What the running call is about: None for the text that is generated."""
        return (self._asking or "nothing") if self._deaf else None

    def _hear(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if type(kwargs.get("cache")).__name__ == "PagedAttentionCache":
            raise GuardError(
                "this model has a logits processor of a policy, and continuous batching (generate_batch, a paged "
                "cache) asks none: text would leave unguarded; use generate() without it, or delete the processor first"
            )
        if self._deaf or getattr(self._config, "num_hidden_layers", None) != self._layers:
            return  # with fewer layers (``assistant_early_exit``) it drafts
        self._calls += 1
        self._given = kwargs.get(self._ids, args[0] if args and self._ids == "input_ids" else None)
        self._mask, self._positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if (states := kwargs.get("encoder_outputs")) is not None:
            self._used = weakref.ref(states[0])
        cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
        if self._given is not None and self._given.shape[1] > 1:  # else it goes on; how long a cache is may take long
            self._begun |= self._cached if cache is None else not length_of(cache)
        self._cached = cache is not None
        if self._cache is None or self._cache() is not cache:
            self._cache = _weak(cache)

    def begin(self, sure: bool) -> None:
        """A generation begins, where that is known: what was heard before is no part of it.

        sure: scores that come before the model is called are not the model's
        """
        self._answered, self._about, self._sure = self._calls, None, sure

    def begins(self) -> bool:
        """Whether the model has begun a text with an empty cache since this was asked last. Without caches no call
        shows whether it is a first one: False then."""
        begun, self._begun = self._begun, False
        return begun

    def answer(self, ids: Tensor) -> Answer:
        """What scores for ``ids`` [rows, tokens] are: the model's ``new`` answer, ``more`` of the same, for these with
        others behind them, ``none`` of its own; ``unheard`` where that cannot be told."""
        if self._deaf:
            return "none"
        if not self.heard:
            return "unheard"
        if self._answered != self._calls:
            self._answered, self._about = self._calls, ids
            return "new"
        about, given = self._about, self._given
        if about is None:
            return "none" if self._sure else "unheard"
        if given is None or not len(ids) == len(about) == len(given):
            return "none"
        more = ids[:, about.shape[1] :]
        if not more.shape[1] or not torch.equal(ids[:, : about.shape[1]], about):
            return "none"
        given = given.to(ids.device)
        return (
            "more" if any(torch.equal(given[:, k : k + more.shape[1]], more) for k in _ends(about, given)) else "none"
        )

    def before(self, ids: Tensor) -> Tensor | None:
        """What the model had been given before ``ids`` [rows, tokens], which its last call was about: [rows, n].

        n is 0 where ``ids`` are all of it. None where nobody knows: embeddings, or a cache that was filled elsewhere.
        """
        nothing = ids[:, :0]
        if not self._calls or not ids.shape[1] or not self._plain:
            return nothing
        given, cache = self._given, self._cache() if self._cache is not None else None
        if given is None:
            return None
        held = length_of(cache) - given.shape[1]
        if held <= 0 or any(held + k == ids.shape[1] for k in _ends(ids, given)):
            return nothing
        text = self._texts.get(cache) if not isinstance(cache, tuple) else None
        return text[:, :held] if text is not None and len(text) == len(ids) and text.shape[1] >= held else None

    def encoded(self) -> tuple[Tensor | None, Tensor | None]:
        """Ids and mask that the encoder read; None where the model was given something else than it made of them."""
        used, wrote = self._used() if self._used is not None else None, self._wrote
        if used is not None and used is not wrote:
            each = len(used) // max(len(wrote), 1) if wrote is not None else 0
            if wrote is None or not each or not torch.equal(used[::each], wrote):
                return None, None
        return self._read

    def held(self) -> tuple[Any, Tensor | None, Tensor | None]:
        """The cache of the last call, its mask and its positions; None each where it had none."""
        return self._cache() if self._cache is not None else None, self._mask, self._positions

    @property
    def heard(self) -> bool:
        """Whether calls of the model are heard: not where it may be called past what listens."""
        return self._plain and "_compiled_call" not in vars(self._model)

    def remember(self, ids: Tensor | None) -> None:
        """The cache of the last call holds these rows, from their first token on; None: nobody knows which."""
        if self._cache is not None and (cache := self._cache()) is not None and not isinstance(cache, tuple):
            if ids is None:
                self._texts.pop(cache, None)
            else:
                self._texts[cache] = ids


def _ends(ids: Tensor, given: Tensor) -> list[int]:
    """Where in what was given ``ids`` can end: numbers of columns, of which the last ones are those of ``ids``."""
    if len(ids) != len(given) or not ids.shape[1]:
        return []
    given = given.to(ids.device)
    places = (given[0] == ids[0, -1]).nonzero()[:, 0] + 1
    return [k for k in places.tolist()
            if torch.equal(given[:, max(k - ids.shape[1], 0) : k], ids[:, -min(k, ids.shape[1]) :])]  # fmt: skip


def _weak(cache: Any) -> weakref.ref[Any] | None:
    try:
        return None if cache is None else weakref.ref(cache)
    except TypeError:  # tuples, as caches were once
        return lambda: cache  # type: ignore[return-value]


def length_of(cache: Any) -> int:
    """How many columns a cache holds."""
    if isinstance(cache, tuple):
        return int(cache[0][0].shape[-2]) if cache and cache[0] else 0
    length = getattr(cache, "get_seq_length", None)
    return int(length() or 0) if callable(length) else 0
