"""The transformers host: any model that generates text, with its tokenizer.

A session acts as a logits processor, which ``generate`` asks about every token. Attached, the model is of a subclass
of its own class whose ``generate`` goes through the session; a processor made by ``logits_processor`` touches nothing.
A loop of the caller's own, ``model(ids)`` token by token, is refused while attached: its scores would be unguarded.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ...errors import BaseMismatch, GuardError, SessionError
from ...generation.decoding import Ahead, Asked, Vocabulary
from ...host import Host
from ...registry.fingerprint import check_base, fingerprint
from ...runtime.choice import choice
from ...runtime.lowrank import LayerIndex
from ...runtime.once import once
from .conv1d import Turned, is_turned
from .foresight import Foresight
from .head import check_head, through_head
from .last_inputs import CACHES, LastInputs, length_of
from .model_lock import ModelLock, demand_free, unwrapped
from .sight import TOWERS, Sight, image_token
from .speaker import Speaker
from .vocabulary import vocabulary_of

if TYPE_CHECKING:
    from ...protocols import SpeakingSession
    from ...registry import Artifact

PADDING = 1024  # ids that a model may have beyond its tokenizer's: rows of its embedding for speed, never trained
_BESIDE = ("generate_batch", "init_continuous_batching")  # other ways to text, which ask no processor
_BATCHED = (
    "continuous batching asks no logits processor, so that text would leave unguarded: use generate(), and not its "
    "paged cache, or detach the policy"
)


class TransformersHost(Host):
    """Host adapter for one model and its tokenizer. Raises SessionError for what cannot generate, or does not fit."""

    about = "a transformers pipeline for text, a pair (language model, tokenizer)"
    generates = "text"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """A transformers pipeline, or a pair (model, tokenizer); no model by itself that generates nothing, such as a
        classifier of pictures, which is a plain module."""
        one = target[0] if isinstance(target, tuple) and len(target) == 2 else target
        one = getattr(one, "_orig_mod", one)  # compiled
        modules = {base.__module__.split(".", 1)[0] for base in type(one).__mro__}
        plain = one is target and callable(getattr(one, "can_generate", None)) and not one.can_generate()
        return "transformers" in modules and "diffusers" not in modules and not plain

    @classmethod
    def sole(cls, target: Any) -> Any:
        """The model."""
        return unwrapped(target[0] if isinstance(target, tuple) else getattr(target, "model", None))

    def __init__(self, target: Any):
        super().__init__(target)
        self.model: Any
        if not isinstance(target, tuple) and not hasattr(target, "tokenizer"):
            raise SessionError(
                f"cannot guard a {type(target).__name__} by itself: give a pair (model, tokenizer), or a pipeline"
            )
        model, reader = target if isinstance(target, tuple) else (target.model, _reader(target))
        self.model = unwrapped(model)
        if not callable(getattr(self.model, "generate", None)) or not self.model.can_generate():
            raise SessionError(
                f"cannot guard a {type(self.model).__name__}: it generates no text; give a causal or encoder-decoder "
                "language model"
            )
        check_head(self.model)
        demand_free(self.model)
        self._seer = reader
        self.tokenizer = tokenizer = _tokenizer(reader, type(self.model).__name__)
        self.name = f"transformers {type(self.model).__name__}"
        self.encodes = bool(self.model.config.is_encoder_decoder)
        self.vocabulary_size = self._scores()
        _fits(self.vocabulary_size, tokenizer, type(self.model).__name__)
        self.vocabulary: Vocabulary = vocabulary_of(tokenizer, self._stops(), self.vocabulary_size)
        self._model_lock, self._inputs = ModelLock(self.model), LastInputs(self.model, self.encodes)
        # What scores are, what the model was given before, and what it was given: asked at every token.
        self.answer, self.before, self.remember = self._inputs.answer, self._inputs.before, self._inputs.remember
        self._attached = False

    def _scores(self) -> int:
        head = self.model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return int(weight.shape[0])
        # Absent, or packed by a quantiser: its weight may be a function, or of another shape.
        return int(getattr(head, "out_features", None) or self.model.config.get_text_config().vocab_size)

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
        layers = dict(LayerIndex({"model": self.model}))
        turned = {f"model.{name}": Turned(module) for name, module in self.model.named_modules() if is_turned(module)}
        return LayerIndex.named({**layers, **turned})

    def text_layers(self) -> LayerIndex:
        """Those of them that write text: a picture tower has numbered blocks as well, of the same numbers."""
        found, looks = self.layers(), self.looks()
        if not looks:
            return found
        decoder = looks[0][1]
        head = next(f"model.{name}." for name, module in self.model.named_modules() if module is decoder)
        return LayerIndex.named({name: layer for name, layer in found.items() if name.startswith(head)})

    def part(self, name: str) -> Any:
        """A module by its name, after ``model.``. Raises BaseMismatch where there is none."""
        try:
            return self.model.get_submodule(name.removeprefix("model."))
        except AttributeError:
            raise BaseMismatch(
                f"the {type(self.model).__name__} has no layer {name}: use an artifact made for this base model"
            ) from None

    def entries(self) -> Sequence[Any]:
        """The model, and its encoder, which ``generate`` calls by itself."""
        return [self.model, self.model.get_encoder()] if self.encodes else [self.model]

    def looks(self) -> Sequence[tuple[Any, Any]]:
        """The picture tower of a model that sees, which ``generate`` may call by itself, and its text model."""
        base = self.model.base_model
        tower = next((one for name in TOWERS if (one := getattr(base, name, None)) is not None), None)
        return [] if tower is None or self.encodes else [(tower, self.model.get_decoder())]

    def places(self, ids: Sequence[Sequence[int] | None]) -> list[int]:
        """In how many places of each prompt a picture stands, or a part of one; [] where a prompt is not known."""
        token, known = image_token(self.model), [list(one) for one in ids if one is not None]
        return [one.count(token) for one in known] if token is not None and len(known) == len(ids) else []

    def asking(self) -> tuple[int, Sequence[int]] | Literal["nothing"] | None:
        """Whose call of the model is running."""
        return self._inputs.asking

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""
        return once(self, "fingerprint", lambda: fingerprint(self.layers().shapes()))

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
        if not self._attached:
            demand_free(self.model)
        model = self.model.get_encoder() if self.encodes else self.model
        more = {} if self.encodes else {"use_cache": False}
        found: list[Tensor] = []
        with self._for_itself():
            for _, group in groupby([list(one) or [self._begin()] for one in ids], key=len):
                given = torch.tensor(list(group), device=self.model.device)
                states = model(input_ids=given, output_hidden_states=True, return_dict=True, **more).hidden_states
                found += states[layer].float()
        return found

    @torch.no_grad()
    def read_inside(
        self, ids: Sequence[int], layers: Sequence[str], block: str | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What layers read of one text, [tokens, in] by their names, and what a block gives of it, [tokens, width];
        float32. Without a block, its last hidden states. Raises BaseMismatch for a name that is not there."""
        found: dict[str, Tensor] = {}
        given: list[Tensor] = []

        def written(module: Any, args: Any, out: Any) -> None:
            given.append((out[0] if isinstance(out, tuple) else out)[0].float())

        handles = [self.part(block).register_forward_hook(written)] if block else []
        try:
            for name in layers:

                def read(module: Any, args: tuple[Tensor, ...], name: str = name) -> None:
                    found[name] = args[0][0].float()

                handles.append(self.part(name).register_forward_pre_hook(read))
            states = self.states([ids], -1)[0]
        finally:
            for handle in handles:
                handle.remove()
        return found, given[0] if given else states

    def speaker(self) -> Speaker:
        """The model with gradients, for methods that learn. Raises SessionError for one under a policy, and for one
        that has an encoder."""
        demand_free(self.model)
        return Speaker(self.model, self.part, self._for_itself)

    def sight(self) -> Sight:
        """How the model sees pictures. Raises SessionError for one that does not."""
        return Sight(self.model, self._seer, self.part, self._for_itself)

    @contextmanager
    def _for_itself(self) -> Iterator[None]:
        """The model is called, and for no generation."""
        with self._model_lock.opened(), self._inputs.deaf():
            yield

    @torch.no_grad()
    def through_head(self, vectors: Tensor, normed: bool = True) -> Tensor:
        """Vectors read as tokens, [n, tokens of the tokenizer]: see ``head.through_head``. Raises BaseMismatch."""
        with self._for_itself():
            return through_head(self.model, vectors, normed)[:, : len(self.tokenizer)]  # rows beyond were never trained

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
                raise GuardError(
                    "a prompt came as embeddings, or in a cache that was filled elsewhere, which guards of this policy "
                    "cannot read: pass all of its token ids"
                )
            return self.pool(known, layer)

        return pool

    def ahead(self, ids: Tensor, begin: int, asked: Asked, prompt_of: Sequence[int]) -> Ahead | None:
        """What the model would say after these rows: one call of it each time that it is asked."""
        return Foresight(self.model, self._inputs, self.encodes, ids, begin, asked, prompt_of)

    @property
    def foresees(self) -> bool:
        """Whether the model's calls are heard: else nobody knows which scores are its own."""
        return self._inputs.heard and getattr(self.model, "_compiled_call_impl", None) is None

    # Routing.

    def begins(self) -> bool:
        """Whether the model has begun a text with an empty cache since this was asked last."""
        return self._inputs.begins()

    def listen(self) -> None:
        """Remember what the model is given: a processor is shown ids only, and only those of the decoder."""
        self._inputs.listen()

    def heard(self, rows: int) -> tuple[Asked, list[int]]:
        """The encoder's prompts, and which one each of the decoder's rows is about."""
        ids, mask = self._inputs.encoded()
        asked, of = self.asked(ids, mask)
        each = max(rows // len(of), 1)
        return asked, [of[min(row // each, len(of) - 1)] for row in range(rows)]

    def attach(self, session: SpeakingSession) -> None:
        """Turn the model into its guarded subclass. Raises SessionError when it is one already."""
        self._model_lock.shut(weakref.ref(session), _routes(type(self.model), weakref.ref(session), weakref.ref(self)))
        self._attached = True

    def add(self, session: SpeakingSession) -> None:
        """Another session for the same model: nothing of it is kept here, ``generate`` asks which one is chosen."""

    def drop(self, session: SpeakingSession) -> None:
        """Undo ``add``."""

    def generate(self, session: SpeakingSession, *args: Any, **kwargs: Any) -> Any:
        """A guarded ``model.generate(...)``."""
        from .backtracking import Backtracking  # these are of classes of transformers, which takes seconds to import
        from .processor import asks, looks_back, with_guards

        chosen = choice(self)
        if chosen is not None and chosen.session is not None:
            session = chosen.session
        original = self._model_lock.own("generate")
        kwargs = _named(original, args, kwargs)
        if self._model_lock.inside:
            return self._within(asks(session, kwargs), original, kwargs)
        config = kwargs.get("generation_config")
        if kwargs.get("token_healing") or getattr(config, "token_healing", False):
            raise GuardError(
                "token_healing chooses the end of the prompt by a generation of its own, which asks no guard: leave it "
                "out"
            )
        if "paged" in (kwargs.get("cache_implementation"), getattr(config, "cache_implementation", None)):
            raise GuardError(_BATCHED)

        def generation() -> Any:
            self._inputs.begin(sure=True)
            given = kwargs.get("input_ids") if kwargs.get("inputs") is None else kwargs["inputs"]
            with self._model_lock.opened(), session.within(given, kwargs.get("attention_mask"), _filled(kwargs)):
                if session.takes_back:
                    return Backtracking(session, self, original)(kwargs)
                return with_guards(session, original, kwargs)

        return session.run(generation, keep=looks_back(self.model, kwargs))

    def _within(self, guarded: bool, original: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """``generate`` inside of ``generate``: the model drafts for itself, or somebody calls it for another text."""
        if not guarded:
            raise GuardError(
                "generate() was called inside of a guarded generate() of the same model, and what it says would be in "
                "no receipt: call it afterwards"
            )
        if getattr(kwargs.get("generation_config"), "is_assistant", False):
            with self._inputs.deaf():
                return original(**kwargs)
        return original(**kwargs)

    def detach(self) -> None:
        """Give the model its own class back and forget what it was given."""
        self._model_lock.give_back()
        self._inputs.stop()
        self._attached = False


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by their names."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(function).parameters, args)), **kwargs}


def _filled(kwargs: dict[str, Any]) -> bool:
    """Whether a call goes on with a cache that may hold a text, or part of one."""
    cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
    return cache is not None and length_of(cache) > 0


def _reader(pipeline: Any) -> Any:
    """What a pipeline reads with: a processor where it takes more than text."""
    return getattr(pipeline, "processor", None) or pipeline.tokenizer


def _tokenizer(reader: Any, model: str) -> Any:
    """A tokenizer, or that of a multimodal model's processor. Raises SessionError where there is none."""
    if reader is None:
        raise SessionError(f"cannot guard a {model} without its tokenizer: give both")
    found = reader if hasattr(reader, "get_vocab") else getattr(reader, "tokenizer", None)
    if not hasattr(found, "get_vocab"):
        raise SessionError(
            f"cannot guard a {model} with a {type(reader).__name__}: it has no tokenizer, so that nobody can read what "
            "the model says; give the pair (model, tokenizer), or (model, processor)"
        )
    return found


def _fits(size: int, tokenizer: Any, model: str) -> None:
    """Raises SessionError where ids of the tokenizer are no ids of the model, or too many the other way round."""
    own = int(tokenizer.vocab_size)
    if own > size or size - len(tokenizer) > max(PADDING, size // 50):
        raise SessionError(
            f"this tokenizer has {len(tokenizer)} tokens and the {model} {size}: they do not belong together; "
            "give the model's own tokenizer"
        )


def _routes(
    cls: Any, me: Callable[[], SpeakingSession | None], own: Callable[[], TransformersHost | None]
) -> dict[str, Any]:
    """What the guarded subclass of a model's class does another way."""

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        session, host = me(), own()
        if session is None or host is None or host.model is not self:
            raise GuardError(
                "this model was copied, or kept, while a policy was attached to it, and nothing guards it now: copy "
                "the detached model"
            )
        return host.generate(session, *args, **kwargs)

    def beside(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise GuardError(_BATCHED)

    return {"generate": functools.wraps(cls.generate)(generate)} | {n: beside for n in _BESIDE if hasattr(cls, n)}
