"""The transformers host: any model that generates text, with its tokenizer.

A session acts as a logits processor, which ``generate`` asks about every token. Attached, the model is of a subclass
of its own class whose ``generate`` goes through the session; a processor made by ``logits_processor`` touches nothing.
A loop of the caller's own, ``model(ids)`` token by token, is refused while attached: its scores would be unguarded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError, SessionError
from ...generation.decoding import Asked, Vocabulary
from ...host import Host
from ...registry.fingerprint import check_base, fingerprint
from ...runtime.lowrank import LayerIndex
from .vocabulary import vocabulary_of

if TYPE_CHECKING:
    from ...protocols import SpeakingSession
    from ...registry import Artifact

PADDING = 1024  # ids that a model may have beyond its tokenizer's: rows of its embedding for speed, never trained
_BESIDE = ("generate_batch", "init_continuous_batching")  # other ways to text, which ask no processor


class TransformersHost(Host):
    """Host adapter for one model and its tokenizer. Raises SessionError for what cannot generate, or does not fit."""

    about = "a transformers pipeline for text, a pair (language model, tokenizer)"
    generates = "text"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """A transformers pipeline, or a pair (model, tokenizer)."""
        one = target[0] if isinstance(target, tuple) and len(target) == 2 else target
        modules = {base.__module__.split(".", 1)[0] for base in type(one).__mro__}
        return "transformers" in modules and "diffusers" not in modules

    @classmethod
    def sole(cls, target: Any) -> Any:
        """The model."""
        model = target[0] if isinstance(target, tuple) else getattr(target, "model", None)
        return getattr(model, "_orig_mod", model)

    def __init__(self, target: Any):
        super().__init__(target)
        self.model: Any
        if not isinstance(target, tuple) and not hasattr(target, "tokenizer"):
            raise SessionError(
                f"cannot guard a {type(target).__name__} by itself: give a pair (model, tokenizer), or a pipeline"
            )
        model, tokenizer = target if isinstance(target, tuple) else (target.model, target.tokenizer)
        self.model = model = getattr(model, "_orig_mod", model)
        if not callable(getattr(self.model, "generate", None)) or not self.model.can_generate():
            raise SessionError(
                f"cannot guard a {type(self.model).__name__}: it generates no text; give a causal or encoder-decoder "
                "language model"
            )
        if (other := getattr(self.model, "_conceptguard", None)) is not None:
            raise SessionError(
                f"this model is already guarded by policy '{other().policy.name}': detach that session first"
            )
        if tokenizer is None:
            raise SessionError(f"cannot guard a {type(self.model).__name__} without its tokenizer: give both")
        self.tokenizer = tokenizer
        self.name = f"transformers {type(self.model).__name__}"
        self.encodes = bool(self.model.config.is_encoder_decoder)
        _fits(self.vocabulary_size, tokenizer, type(self.model).__name__)
        self.vocabulary: Vocabulary = vocabulary_of(tokenizer, self._stops(), self.vocabulary_size)
        self._own_class: type | None = None
        self._handle: Any = None
        self._shut: Any = None
        self._read: tuple[Tensor, Tensor | None] | None = None

    @property
    def vocabulary_size(self) -> int:
        """How many scores the model gives a row."""
        head = self.model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        return int(self.model.config.get_text_config().vocab_size if weight is None else weight.shape[0])

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end a text."""
        given = self.model.generation_config.eos_token_id
        found = given if isinstance(given, list) else [given]
        return frozenset(int(i) for i in (*found, self.tokenizer.eos_token_id) if i is not None)

    def _stops(self) -> frozenset[int]:
        """Ids after which a row is over, padding included."""
        pad = self.model.generation_config.pad_token_id
        return self.ends | ({int(pad)} if pad is not None else set())

    # What a session and a method may ask.

    def layers(self) -> LayerIndex:
        """Linear layers under their names in the model, after ``model.``."""
        return LayerIndex({"model": self.model})

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""
        return fingerprint(self.layers().shapes())

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""
        check_base(artifact, self.fingerprint())

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the model runs, and in what it computes."""
        return self.model.device, self.model.dtype

    def pool(self, ids: Sequence[Sequence[int]], layer: int) -> Tensor:
        """The same as one vector a text, a mean over its tokens: [texts, width]."""
        return torch.stack([self.states([one], layer)[0].mean(0) for one in ids])

    @torch.no_grad()
    def states(self, ids: Sequence[Sequence[int]], layer: int) -> list[Tensor]:
        """Hidden states of texts (of the encoder where there is one): [tokens, width] each, float32.

        Texts of one length that follow each other share a call: a guard passes one, so that what it makes of a prompt
        never depends on its batch.
        """
        model = self.model.get_encoder() if self.encodes else self.model
        more = {} if self.encodes else {"use_cache": False}
        found: list[Tensor] = []
        for _, group in groupby([list(one) or [self._begin()] for one in ids], key=len):
            given = torch.tensor(list(group), device=self.model.device)
            states = model(input_ids=given, output_hidden_states=True, return_dict=True, **more).hidden_states
            found += states[layer].float()
        return found

    def _begin(self) -> int:
        """What an empty prompt begins with."""
        config = self.model.generation_config
        return int(config.bos_token_id if config.bos_token_id is not None else min(self.vocabulary.stops, default=0))

    def asked(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Asked, list[int]]:
        """The prompts among rows of ids [rows, tokens], each once, and for every row which one it is.

        ids: None, or without a column, where the caller passed embeddings
        mask: [rows, tokens], 0 is padding; without one, leading padding ids are
        """
        if ids is None or not ids.shape[1]:
            rows = 1 if ids is None else len(ids)
            return Asked([None] * rows, [None] * rows, self._pool_of([None] * rows)), list(range(rows))
        pads = {self.model.generation_config.pad_token_id, self.tokenizer.pad_token_id} - {None}
        own: list[tuple[int, ...]] = []
        for i, row in enumerate(ids.tolist()):
            if mask is not None and mask.shape == ids.shape:
                row = [token for token, kept in zip(row, mask[i].tolist()) if kept]
            else:
                first = next((at for at, token in enumerate(row) if token not in pads), len(row))
                last = next((at for at in range(len(row), first, -1) if row[at - 1] not in pads), first)
                row = row[first : last if self.encodes else len(row)]
            own.append(tuple(row))
        distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(own))}
        prompts: list[list[int] | None] = [list(prompt) for prompt in distinct]
        texts: list[str | None] = [self.vocabulary.decode(prompt) for prompt in distinct]
        return Asked(texts, prompts, self._pool_of(prompts)), [distinct[prompt] for prompt in own]

    def _pool_of(self, prompts: Sequence[list[int] | None]) -> Callable[[int], Tensor]:
        def pool(layer: int) -> Tensor:
            known = [ids for ids in prompts if ids is not None]
            if len(known) < len(prompts):
                raise GuardError("a prompt came as embeddings, which guards of this policy cannot read: pass token ids")
            return self.pool(known, layer)

        return pool

    # Routing.

    def listen(self) -> None:
        """Where the model has an encoder, remember what it reads: a processor is shown the decoder's ids only."""
        if not self.encodes:
            return
        me = weakref.ref(self)

        def reads(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            host, ids = me(), kwargs.get("input_ids", args[0] if args else None)
            if host is not None:
                host._read = None if ids is None else (ids, kwargs.get("attention_mask"))

        self._handle = self.model.get_encoder().register_forward_pre_hook(reads, with_kwargs=True)
        weakref.finalize(self, self._handle.remove)

    def heard(self, rows: int) -> tuple[Asked, list[int]]:
        """The encoder's prompts, and which one each of the decoder's rows is about."""
        ids, mask = self._read or (None, None)
        asked, of = self.asked(ids, mask)
        each = max(rows // len(of), 1)
        return asked, [of[min(row // each, len(of) - 1)] for row in range(rows)]

    def attach(self, session: SpeakingSession) -> None:
        """Turn the model into its guarded subclass."""
        self._own_class = type(self.model)
        self.model.__class__ = _guarded(self._own_class, session, self)
        self._shut = self.model.register_forward_pre_hook(_refuse)

    @contextmanager
    def generating(self) -> Iterator[None]:
        """The model may be called: by ``generate``, whose scores the guards see."""
        self._shut.remove()
        try:
            yield
        finally:
            self._shut = self.model.register_forward_pre_hook(_refuse)

    def generate(self, session: SpeakingSession, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A guarded ``model.generate(...)``."""
        from .backtracking import Backtracking  # these are of classes of transformers, which takes seconds to import
        from .processor import with_guards

        def generation() -> Any:
            with self.generating():
                if session.takes_back:
                    return Backtracking(session, self, original)(args, kwargs)
                return with_guards(session, partial(original, *args), kwargs)

        return session.run(generation)

    def detach(self) -> None:
        """Give the model its own class back and forget what its encoder read."""
        if self._shut is not None:
            self._shut.remove()
            self._shut = None
        if self._own_class is not None:
            self.model.__class__, self._own_class = self._own_class, None
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._read = None


def _refuse(model: nn.Module, args: tuple[Any, ...]) -> None:
    raise GuardError(
        "the guarded model was called by itself, and scores would leave that no guard has seen: use generate(), or, in "
        "a loop of your own, conceptguard.logits_processor on the detached model"
    )


def _fits(size: int, tokenizer: Any, model: str) -> None:
    """Raises SessionError where ids of the tokenizer are no ids of the model, or too many the other way round."""
    own = int(tokenizer.vocab_size)
    if own > size or size - len(tokenizer) > max(PADDING, size // 50):
        raise SessionError(
            f"this tokenizer has {len(tokenizer)} tokens and the {model} {size}: they do not belong together; "
            "give the model's own tokenizer"
        )


def _guarded(cls: Any, session: SpeakingSession, host: TransformersHost) -> type:
    """A subclass of the model's class with the same name, so that saving sees the original."""
    me, own = weakref.ref(session), weakref.ref(host)

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        here, guard = me(), own()
        assert here is not None and guard is not None, "a guarded model keeps its session alive"
        return guard.generate(here, cls.generate.__get__(self), *args, **kwargs)

    def beside(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise GuardError(
            "continuous batching asks no logits processor, so that text would leave unguarded: use generate(), or "
            "detach the policy"
        )

    body: dict[str, Any] = {name: beside for name in _BESIDE if hasattr(cls, name)}
    body |= {
        "generate": generate, "_conceptguard": me,
        "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__,
    }  # fmt: skip
    return type(cls.__name__, (cls,), body)
