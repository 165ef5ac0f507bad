"""The diffusers host: text to image, image to image, inpainting; which pipelines, and their differences, ``families``.

A guarded pipeline is of a subclass of its own class, so that two methods pass through the session: ``__call__``, around
everything, and ``encode_prompt``. What the denoiser, a UNet or a transformer, receives is guarded at the denoiser
itself: gates are computed from the conditioning that arrives there, whoever made it, so embeddings and custom loops are
guarded like text.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..banks import running
from ..encodings import Known, known_to
from ..errors import BaseMismatch, GuardError, Refused, SessionError
from ..generation import Branch, Conditions, Encoded, Moment, Prompts, Skips
from ..lowrank import LayerIndex
from ..registry.fingerprint import fingerprint
from .denoiser import Denoiser
from .encoder_gates import EncoderGates
from .families import family_of
from .skips import change, recorded
from .text_encoders import TextEncoder, as_one, text_encoders

if TYPE_CHECKING:
    from ..registry import Artifact
    from ..session import Session

_REQUIRED = inspect.Parameter.empty
_NOT_ROWS = ("txt_ids", "img_ids")  # positions, the same for every row
_PARTS = ("", "prompt"), ("negative_", "negative_prompt")  # of what encode_prompt returns, and what was typed
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_TYPED = ("prompt", "prompt_2", "prompt_3")  # what each of them is given


class _Seen(NamedTuple):
    """A condition that came out of ``encode_prompt``, and in which pipeline call."""

    embeds: Tensor
    text: str | None
    ids: list[int] | None
    branch: Branch
    call: int
    prompts: tuple[str, ...] | None


class DiffusersHost:
    """Host adapter for one pipeline. Raises SessionError for pipelines it cannot guard."""

    def __init__(self, pipe: Any):
        self.family = family_of(pipe)
        if (other := getattr(pipe, "_conceptguard", None)) is not None:
            raise SessionError(
                f"this pipeline is already guarded by policy '{other.session.policy.name}': detach that session first"
            )
        self.pipe = self.target = pipe
        self._own_class = type(pipe)
        self.name = f"diffusers {type(pipe).__name__}"
        self.denoiser_name = self.family.denoiser
        self.model: nn.Module = getattr(pipe, self.denoiser_name)
        self._arguments = list(inspect.signature(type(getattr(self.model, "_orig_mod", self.model)).forward).parameters)
        self._parts = self.components()
        self._session: Session | None = None
        self._handles: list[Any] = []
        self._skip_handles: list[Any] = []
        self._seen: deque[_Seen] = deque(maxlen=256)
        self._rows: list[_Seen | None] = []
        takes = inspect.signature(type(pipe).encode_prompt).parameters
        # Of the several prompts those that it knows; one row a text, and no guidance where it can be turned off.
        self._prompts = [name for name in _TYPED if name in takes]
        plain = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        self._plainly = {name: value for name, value in plain.items() if name in takes}
        self._calls = self._encoded = 0
        self._last: tuple[Tensor, int | None] | None = None

    # What a session and a method may ask.

    def components(self) -> dict[str, nn.Module]:
        """The modules that guards may reach, by name."""
        found = {self.denoiser_name: self.model}
        found.update({n: m for n in _ENCODERS if isinstance(m := getattr(self.pipe, n, None), nn.Module)})
        return found

    def layers(self) -> LayerIndex:
        """Linear and convolution layers of the denoiser and the text encoders under diffusers names."""
        return LayerIndex(self.components())

    def compiled(self) -> bool:
        """Whole or in part, by ``torch.compile(pipe.unet)`` or ``pipe.unet.compile()``."""
        parts = [part for part in self.pipe.components.values() if isinstance(part, nn.Module)]
        return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for p in parts for m in p.modules())

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the pipeline runs, also under offload."""
        return self.pipe._execution_device, self.model.dtype  # type: ignore[return-value]

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""
        return fingerprint(self.layers().shapes())

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""
        made_for = artifact.manifest.base
        if made_for.fingerprint and made_for.fingerprint != self.fingerprint():
            raise BaseMismatch(
                f"{artifact.ref} was made for {made_for.family} ({made_for.fingerprint}), this model is "
                f"{self.fingerprint()}: use an artifact made for this base, see `conceptguard list`"
            )

    @torch.no_grad()
    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Texts as the denoiser sees them: embeds [rows, tokens, width], ids without special tokens.

        texts: one for all encoders, or one for each, as in ``Conditions.prompts``
        """
        columns = list(zip(*(t if isinstance(t, tuple) else (t,) * len(_TYPED) for t in texts)))
        given = {name: list(column) for name, column in zip(_TYPED, columns) if name in self._prompts}
        token = running.set(self)  # no session's terms act on what a gate is measured by
        try:
            out = self._own_class.encode_prompt(self.pipe, **given, device=self.pipe._execution_device, **self._plainly)
        finally:
            running.reset(token)
        by_role = dict(zip(self.family.encoded, out))
        whole = [as_one(t) if isinstance(t, tuple) else t for t in texts]
        return Encoded(by_role["embeds"], self.tokens(whole), by_role.get("pooled"))

    def read(self, texts: list[str]) -> Encoded:
        """Texts as gates read them: a begin token, then the text's own, in one encoder's space."""
        encoded = self.encode(texts)
        embeds = self.family.reading(encoded.embeds)
        return Encoded(embeds, [ids[: embeds.shape[1] - 1] for ids in encoded.ids])

    def known(self) -> Known:
        """Concept prompts that this pipeline's encoder has read, for this session or an earlier one."""
        encoder = next(iter(self._encoders().values()), None)
        return Known() if encoder is None else known_to(encoder, "prompt", self.read, self.tokens)

    def tokens(self, texts: list[str], whole: bool = False) -> list[list[int]]:
        """Token ids without begin, end and padding, cut at the encoder's window unless ``whole``."""
        tokenizer = self._tokenizer()
        limit = None if whole else self.window
        # verbose: what is longer than the window is our business, not a warning's
        found = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids if texts else []
        return [ids[:limit] for ids in found]

    @property
    def window(self) -> int:
        """How many tokens of a text count."""
        return self.family.window or int(self._tokenizer().model_max_length) - 2

    def _tokenizer(self) -> Any:
        return getattr(self.pipe, self.family.tokenizer, None) or self.pipe.tokenizer_2

    def encoders(self) -> list[TextEncoder]:
        """The text encoders one by one, each with its own tokens and its part of an embedding."""
        return text_encoders(self.pipe, self, self.family)

    def _encoders(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.components().items() if name in _ENCODERS}

    def denoiser(self) -> Denoiser:
        """The UNet as a plain function with its noise schedule, for methods that learn; SessionError for others."""
        if self.denoiser_name != "unet":
            raise SessionError(f"{self.name} has no UNet: artifacts are made on Stable Diffusion 1.x, 2.x and SDXL")
        return Denoiser(self.pipe)

    # Routing.

    def attach(self, session: Session) -> None:
        """Turn the pipeline into its guarded subclass and hook the denoiser and, where terms need it, the encoders."""
        for name in set(_ENCODERS) & session.banks.prefixes():
            if "CLIP" not in type(self.components()[name]).__name__:
                raise SessionError(f"terms beside {name} of this pipeline, which is no CLIP, cannot be gated")
        self._session = session
        self.pipe.__class__ = _guarded(self._own_class, self)
        self._handles = [
            self.model.register_forward_pre_hook(self._before, with_kwargs=True),
            self.model.register_forward_hook(self._after, with_kwargs=True),
        ]
        for name in _ENCODERS:
            if name in session.banks.prefixes():
                hook = EncoderGates(self, name)
                encoder = self.components()[name]
                self._handles += [encoder.register_forward_pre_hook(hook.before, with_kwargs=True)]
                self._handles += [encoder.register_forward_hook(hook.after)]

    def detach(self) -> None:
        """Give the pipeline its own class back and remove every hook."""
        self.pipe.__class__ = self._own_class
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._leave_skips()
        self._seen.clear()
        self._rows.clear()
        self._last = self._session = None

    @property
    def session(self) -> Session:
        assert self._session is not None
        return self._session

    def call(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """A guarded ``pipe(...)``."""
        for name, part in self._parts.items():
            if getattr(self.pipe, name) is not part:
                raise GuardError(f"pipe.{name} was replaced after attaching: detach, then attach again")
        given = inspect.signature(original).bind(*args, **kwargs)
        given.apply_defaults()
        bound = given.arguments
        looks = self.session.has("check_image")
        output_type = bound.get("output_type", "pil")
        if looks and output_type == "latent":
            raise GuardError("this policy looks at images, and output_type='latent' returns none: ask for images")
        if looks and not hasattr(self.pipe, "image_processor"):
            raise GuardError(f"this policy looks at images, and a {self._own_class.__name__} draws none")
        if looks:
            extra = bound.pop("kwargs", {})
            args, kwargs = (), {**bound, **extra, "output_type": "pt", "return_dict": True}

        def draw(**changed: Any) -> Any:
            self._last = None
            self._calls += 1
            self._encoded = 0
            try:
                return original(*args, **{**kwargs, **changed})
            finally:
                self._last = None
                self._leave_skips()

        def generation() -> Any:  # one at a time: all that is remembered of a call is remembered in here
            result = draw()
            if not self.session.receipt.steps:
                raise GuardError(
                    "the denoiser ran past the guards, compiled before they were there: attach, then compile"
                )
            return self._looked_at(result, bound, output_type, draw) if looks else result

        return self.session.run(generation, self._guidance(bound))

    def _guidance(self, bound: dict[str, Any]) -> float:
        """The scale of classifier-free guidance. FLUX has its own, which takes effect beside a negative prompt only."""
        scale = float(bound.get(self.family.guidance) or 0.0)
        if "negative_embeds" in self.family.encoded:
            return scale
        negative = bound.get("negative_prompt"), bound.get("negative_prompt_embeds")
        return scale if any(given is not None for given in negative) else 1.0

    def _looked_at(self, result: Any, bound: dict[str, Any], output_type: str, draw: Callable[..., Any]) -> Any:
        """A pipeline's result after every guard has seen its images, as the caller wants it."""

        def again(attempt: int) -> Tensor:
            return draw(generator=_reseeded(bound.get("generator"), attempt)).images  # type: ignore[no-any-return]

        texts = _texts(bound.get("prompt"), len(result.images))
        # From latents that the caller gave, the same image would come again.
        pixels = self.session.check_image(result.images, texts, again if bound.get("latents") is None else None)
        result.images = self.pipe.image_processor.postprocess(pixels * 2 - 1, output_type=output_type)
        if bound.get("return_dict", True):
            return result
        return tuple(getattr(result, field.name) for field in dataclasses.fields(result))

    @torch.no_grad()
    def encode_prompt(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """A guarded ``pipe.encode_prompt(...)``: guards see every condition, and what it returns is remembered."""
        bound = inspect.signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        out = list(original(*args, **kwargs))
        texts: list[str | None] = []
        ids: list[list[int] | None] = []
        typed: list[tuple[str, ...] | None] = []
        branches: list[Branch] = []
        at: dict[str, int] = {
            role: i for i, role in enumerate(self.family.encoded[: len(out)]) if isinstance(out[i], Tensor)
        }
        parts = [(part, key) for part, key in _PARTS if f"{part}embeds" in at]
        # A pipeline without a negative part calls once more for its negative prompt.
        inside = running.get() is self.session
        again = inside and self._encoded > 0 and "negative_embeds" not in self.family.encoded
        self._encoded += inside
        for part, key in parts:
            embeds, away = out[at[f"{part}embeds"]], part == "negative_" or again
            if bound.arguments[f"{key}_embeds"] is None:
                given = _typed(bound.arguments, key, len(embeds))
                given = [t or ("",) * len(_TYPED) for t in given] if away else given
                own = [None if t is None else as_one(t) for t in given]
                ids += [None if t is None else self.tokens([t])[0] for t in own]
            else:  # embeddings, maybe of a text that was encoded under this session
                known = [self._recall(row, away) for row in embeds]
                given = [seen.prompts if seen else None for seen in known]
                own = [seen.text if seen else None for seen in known]
                ids += [seen.ids if seen else None for seen in known]
            texts += own
            typed += given
            branches += ["conditional" if not away else "unconditional" if t == "" else "negative" for t in own]
        rows = torch.cat([out[at[f"{part}embeds"]] for part, _ in parts])
        if self.session.has("encode_prompt"):
            pools = [at[f"{part}pooled"] for part, _ in parts if f"{part}pooled" in at]
            pooled = torch.cat([out[i] for i in pools]) if pools else None
            before, prompts = list(texts), Prompts(texts, ids, rows, pooled, branches, self.encode)
            self.session.encode_prompt(prompts)
            for i, text in enumerate(prompts.texts):
                if text is not None and text != before[i]:
                    typed[i] = (text,) * len(_TYPED)
            texts, ids, rows = prompts.texts, prompts.ids, prompts.embeds
            slots = [at[f"{part}embeds"] for part, _ in parts]
            for i, changed in zip(slots, rows.split([len(out[i]) for i in slots])):
                out[i] = changed
            if prompts.pooled is not None:
                for i, changed in zip(pools, prompts.pooled.split([len(out[i]) for i in pools])):
                    out[i] = changed
        for row, text, own_ids, branch, asked in zip(rows, texts, ids, branches, typed):
            self._seen.append(_Seen(row.detach().clone(), text, own_ids, branch, self._calls, asked))
        return tuple(out)

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One argument of a denoiser call, None where it was not given."""
        place = self._arguments.index(name) - 1  # self
        return kwargs[name] if name in kwargs else args[place] if place < len(args) else None

    def _changed(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """(args, kwargs) with one argument of a denoiser call replaced."""
        place = self._arguments.index(name) - 1
        if name in kwargs or place >= len(args):
            return args, {**kwargs, name: value}
        return (*args[:place], value, *args[place + 1 :]), kwargs

    def _time(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The timestep of a denoiser call, of 1,000."""
        timestep = self._argument("timestep", args, kwargs)
        return timestep if self.family.clock == 1 else timestep * self.family.clock

    @torch.compiler.disable  # outside the graph, which then knows nothing of sessions
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if running.get() not in (None, self._session):
            return None
        embeds = self._argument("encoder_hidden_states", args, kwargs)
        version = None if embeds.is_inference() else embeds._version  # the same tensor may be written to
        if self._last is None or embeds is not self._last[0] or version != self._last[1]:
            self._open(embeds)
            self._last = embeds, version
        path = self.family.pooled
        holder = self._argument(path[0], args, kwargs) if path else None
        pooled = (holder or {}).get(path[1]) if len(path) == 2 else holder

        def conditions(guidance: float | None, moment: Moment) -> Conditions:
            rows = self._rows
            texts, asked = [s.text if s else None for s in rows], [s.prompts if s else None for s in rows]
            branches = [s.branch if s else None for s in rows]
            made = Conditions(texts, asked, embeds, pooled, branches, guidance, moment)
            if hasattr(module, "up_blocks"):
                made.skips = lambda rows: self._skips(module, args, kwargs, made, list(rows))
            return made

        self._leave_skips()
        given = self.session.before_denoise(self._time(args, kwargs), conditions)
        if given is not None and given.skip_changes:
            self._skip_handles = change(module, given.skip_changes)
        if given is None or (given.embeds is embeds and given.pooled is pooled):
            return None
        if given.pooled is not pooled:
            held = {**(holder or {}), path[1]: given.pooled} if len(path) == 2 else given.pooled
            args, kwargs = self._changed(path[0], held, args, kwargs)
        return self._changed("encoder_hidden_states", given.embeds, args, kwargs)

    def _skips(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], given: Conditions, rows: list[int]
    ) -> list[Skips]:
        if self.compiled():
            raise GuardError("a compiled model's skip connections cannot be read: leave it uncompiled")
        pooled = None if given.pooled is None else given.pooled[rows]
        with recorded(module) as found:
            self._denoise(module, args, kwargs, Encoded(given.embeds[rows], [], pooled), rows)
        return found

    def _leave_skips(self) -> None:
        for handle in self._skip_handles:
            handle.remove()
        self._skip_handles = []

    def _open(self, embeds: Tensor) -> None:
        """Gates for the conditions that reached the denoiser. The pipelines pass one tensor at every step: once a call,
        or at every step where branches come one after the other."""
        guided = self.session.guidance_scale is not None and not self.family.separate
        away = [guided and i < len(embeds) // 2 for i in range(len(embeds))]
        found = self._rows = [self._recall(row, a) for row, a in zip(embeds, away)]
        if self.family.readable is not None and any(f is None or f.ids is None for f in found):
            raise Refused(
                f"an embedding whose text the policy has not seen: what {self.name} adds to it by its other encoders "
                "cannot be read; pass the text, or encode it with this pipeline while the policy is attached"
            )
        self.session.open_gates(
            self.denoiser_name, self.family.reading(embeds), [f[2] if f else None for f in found],
            [f[1] if f else None for f in found], [f[3] if f else None for f in found],
        )  # fmt: skip

    def _recall(self, row: Tensor, away: bool) -> _Seen | None:
        """The last condition with this embedding. Of a prompt and a negative prompt that are alike, the one asked for.

        away: whether the row stands where guided pipelines put their negative prompts
        """
        alike = (s for s in reversed(self._seen) if s[0].shape == row.shape and torch.equal(s[0].to(row), row))
        last = next(alike, None)
        if last is None or (last.branch != "conditional") == away:
            return last
        return next((s for s in alike if s.call == last.call and (s.branch != "conditional") == away), last)

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if running.get() not in (None, self._session):
            return None
        self._leave_skips()
        latents = self._argument(self.family.sample, args, kwargs)
        prediction = output[0]

        def denoise(conditions: Encoded, rows: Sequence[int]) -> Tensor:
            return self._denoise(module, args, kwargs, conditions, list(rows))

        changed = self.session.after_denoise(
            self._time(args, kwargs), latents, prediction, denoise, self.family.separate
        )
        if changed is prediction:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)

    @torch.no_grad()
    def _denoise(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], conditions: Encoded, rows: list[int]
    ) -> Tensor:
        """Some rows of this call of the UNet again, under other conditions, with every guard out of the way."""
        call = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        del call["self"]
        call.update(call.pop("kwargs", {}))
        sample = call[self.family.sample]
        embeds, tokens = conditions.embeds.to(sample), call["encoder_hidden_states"].shape[1]
        if embeds.shape[1] < tokens:
            raise GuardError(
                f"this call reads {tokens} tokens a prompt, the guards' own texts are {embeds.shape[1]} long: give a "
                "smaller max_sequence_length"
            )
        call = {name: value if name in _NOT_ROWS else _pick(value, rows, len(sample)) for name, value in call.items()}
        call["encoder_hidden_states"] = embeds[:, :tokens].expand(len(rows), -1, -1)
        if conditions.pooled is not None and (path := self.family.pooled):
            pooled = conditions.pooled.to(sample).expand(len(rows), -1)
            call[path[0]] = {**call[path[0]], path[1]: pooled} if len(path) == 2 else pooled
        token = running.set(self)
        try:
            # Never compiled: each number of rows would be another graph.
            return module._call_impl(**{**call, "return_dict": False})[0]  # type: ignore[no-any-return]
        finally:
            running.reset(token)


def _reseeded(generator: Any, attempt: int) -> Any:
    """Generators for the n-th retry, a function of the caller's seeds; without a caller's, noise is new anyway."""
    if isinstance(generator, list):
        return [_reseeded(one, attempt) for one in generator]
    if generator is None:
        return None
    return torch.Generator(generator.device).manual_seed((generator.initial_seed() + 1_000_003 * attempt) % 2**63)


def _pick(value: Any, rows: list[int], total: int) -> Any:
    """Some rows of whatever goes into the UNet: of tensors with one entry per row, also in lists and dicts."""
    if isinstance(value, Tensor) and value.ndim and len(value) == total:
        return value[rows]
    if isinstance(value, (list, tuple)):
        return type(value)(_pick(v, rows, total) for v in value)
    return {k: _pick(v, rows, total) for k, v in value.items()} if isinstance(value, dict) else value


def _texts(value: Any, rows: int) -> list[str | None]:
    """One text per row: a prompt is repeated for each of its images."""
    if value is None or isinstance(value, str):
        return [value] * rows
    return [text for text in value for _ in range(rows // max(len(value), 1))]


def _typed(arguments: Mapping[str, Any], key: str, rows: int) -> list[tuple[str, ...] | None]:
    """What was typed for each encoder of each row; who gave none for a later one meant the first one's."""
    found = [_texts(arguments.get(f"{key}{name.removeprefix('prompt')}"), rows) for name in _TYPED]
    return [tuple(t or own[0] or "" for t in own) if any(t is not None for t in own) else None for own in zip(*found)]


def _guarded(cls: Any, host: DiffusersHost) -> type:
    """A subclass of the pipeline's class with the same name, so that saving and converting see the original."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return host.call(cls.__call__.__get__(self), *args, **kwargs)

    def encode_prompt(self: Any, *args: Any, **kwargs: Any) -> Any:
        return host.encode_prompt(cls.encode_prompt.__get__(self), *args, **kwargs)

    body = {
        "__call__": __call__, "encode_prompt": encode_prompt, "_conceptguard": host,
        "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__,
    }  # fmt: skip
    return type(cls.__name__, (cls,), body)
