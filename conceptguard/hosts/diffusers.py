"""The diffusers host: Stable Diffusion 1.x, 2.x and SDXL pipelines, text to image, image to image, inpainting.

A guarded pipeline is of a subclass of its own class, so that two methods pass through the session: ``__call__``, around
everything, and ``encode_prompt``. What the UNet receives is guarded at the UNet itself: gates are computed from the
conditioning that arrives there, whoever made it, so embeddings and custom loops are guarded like text.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import BaseMismatch, GuardError, SessionError
from ..generation import Branch, Encoded, Prompts
from ..lowrank import LayerIndex, running
from ..registry.fingerprint import fingerprint
from .denoiser import Denoiser

if TYPE_CHECKING:
    from ..registry import Artifact
    from ..session import Session

_ENCODERS = ("text_encoder", "text_encoder_2")


class DiffusersHost:
    """Host adapter for one pipeline. Raises SessionError for pipelines it cannot guard."""

    def __init__(self, pipe: Any):
        if not (hasattr(pipe, "unet") and hasattr(pipe, "encode_prompt")):
            raise SessionError(
                f"cannot guard a {type(pipe).__name__}: Stable Diffusion 1.x, 2.x and SDXL pipelines can be guarded"
            )
        if (other := getattr(pipe, "_conceptguard", None)) is not None:
            raise SessionError(
                f"this pipeline is already guarded by policy '{other.session.policy.name}': detach that session first"
            )
        self.pipe = self.target = pipe
        self._own_class = type(pipe)
        self.name = f"diffusers {type(pipe).__name__}"
        self.unet: nn.Module = pipe.unet
        self._parts = self.components()
        self._session: Session | None = None
        self._handles: list[Any] = []
        self._seen: deque[tuple[Tensor, str, list[int], Branch]] = deque(maxlen=256)
        self._last: tuple[Tensor, int | None] | None = None

    # What a session and a method may ask.

    def components(self) -> dict[str, nn.Module]:
        """The modules that guards may reach, by name."""
        found = {"unet": self.unet}
        found.update({n: m for n in _ENCODERS if isinstance(m := getattr(self.pipe, n, None), nn.Module)})
        return found

    def layers(self) -> LayerIndex:
        """Linear and convolution layers of the UNet and the text encoders under diffusers names."""
        return LayerIndex(self.components())

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the pipeline runs, also under offload."""
        return self.pipe._execution_device, self.unet.dtype  # type: ignore[return-value]

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
    def encode(self, texts: list[str]) -> Encoded:
        """Texts as the UNet sees them: embeds [rows, 77, width], ids without special tokens."""
        token = running.set(self)  # no session's terms act on what a gate is measured by
        try:
            out = self._own_class.encode_prompt(
                self.pipe, prompt=list(texts), device=self.pipe._execution_device, num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )  # fmt: skip
        finally:
            running.reset(token)
        pooled = out[2] if len(out) == 4 else None
        return Encoded(out[0], self.tokens(texts), pooled)

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """Token ids without begin, end and padding, cut at the encoder's window."""
        tokenizer = getattr(self.pipe, "tokenizer", None) or self.pipe.tokenizer_2
        limit = tokenizer.model_max_length - 2
        return [ids[:limit] for ids in tokenizer(texts, add_special_tokens=False, truncation=False).input_ids]

    def denoiser(self) -> Denoiser:
        """The UNet as a plain function with its noise schedule, for methods that learn."""
        return Denoiser(self.pipe)

    # Routing.

    def attach(self, session: Session) -> None:
        """Turn the pipeline into its guarded subclass and hook the UNet and, where terms need it, the encoders."""
        self._session = session
        self.pipe.__class__ = _guarded(self._own_class, self)
        self._handles = [
            self.unet.register_forward_pre_hook(self._before_unet, with_kwargs=True),
            self.unet.register_forward_hook(self._after_unet, with_kwargs=True),
        ]
        for name in _ENCODERS:
            if name in session.banks.prefixes():
                hook = _EncoderHook(self, name)
                encoder = self.components()[name]
                self._handles += [encoder.register_forward_pre_hook(hook.before, with_kwargs=True)]
                self._handles += [encoder.register_forward_hook(hook.after)]

    def detach(self) -> None:
        """Give the pipeline its own class back and remove every hook."""
        self.pipe.__class__ = self._own_class
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()
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
        if looks:
            extra = bound.pop("kwargs", {})
            args, kwargs = (), {**bound, **extra, "output_type": "pt", "return_dict": True}

        def generation() -> Any:  # one at a time: all that is remembered of a call is remembered in here
            self._last = None
            try:
                result = original(*args, **kwargs)
            finally:
                self._last = None
            if not self.session.receipt.steps:
                raise GuardError(
                    "the denoiser ran past the guards, compiled before they were there: attach, then compile"
                )
            return self._looked_at(result, bound, output_type) if looks else result

        return self.session.run(generation, float(bound.get("guidance_scale") or 0.0))

    def _looked_at(self, result: Any, bound: dict[str, Any], output_type: str) -> Any:
        """A pipeline's result after every guard has seen its images, as the caller wants it."""
        pixels = self.session.check_image(result.images, _texts(bound.get("prompt"), len(result.images)))
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
        branches: list[Branch] = []
        slots = [i for i in (0, 1) if isinstance(out[i], Tensor)]  # positive, then negative where guidance is on
        for i in slots:
            key = ("prompt", "negative_prompt")[i]
            typed = _texts(bound.arguments[key], len(out[i])) if bound.arguments[f"{key}_embeds"] is None else None
            own = typed or [None] * len(out[i])
            texts += own if i == 0 or typed is None else [t or "" for t in own]
            branches += ["conditional" if i == 0 else "negative" if t else "unconditional" for t in own]
        ids = [None if t is None else self.tokens([t])[0] for t in texts]
        rows = torch.cat([out[i] for i in slots])
        if self.session.has("encode_prompt"):
            pooled = torch.cat([out[i + 2] for i in slots]) if len(out) == 4 else None
            prompts = Prompts(texts, ids, rows, pooled, branches, self.encode)
            self.session.encode_prompt(prompts)
            texts, ids, rows = prompts.texts, prompts.ids, prompts.embeds
            for i, part in zip(slots, rows.split([len(out[i]) for i in slots])):
                out[i] = part
            if prompts.pooled is not None:
                for i, part in zip(slots, prompts.pooled.split([len(out[i]) for i in slots])):
                    out[i + 2] = part
        for row, text, own_ids, branch in zip(rows, texts, ids, branches):
            if text is not None and own_ids is not None:
                self._seen.append((row.detach().clone(), text, own_ids, branch))
        return tuple(out)

    @torch.compiler.disable  # outside the graph, which then knows nothing of sessions
    def _before_unet(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if running.get() not in (None, self._session):
            return
        embeds = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        version = None if embeds.is_inference() else embeds._version  # the same tensor may be written to
        if self._last is None or embeds is not self._last[0] or version != self._last[1]:
            self._open(embeds)
            self._last = embeds, version
        self.session.before_denoise()

    def _open(self, embeds: Tensor) -> None:
        """Gates for the conditions that reached the UNet. The pipelines pass one tensor at every step: once a call."""
        found = [self._recall(row) for row in embeds]
        self.session.open_gates(
            "unet", embeds, [f[2] if f else None for f in found], [f[1] if f else None for f in found],
            [f[3] if f else None for f in found],
        )  # fmt: skip

    def _recall(self, row: Tensor) -> tuple[Tensor, str, list[int], Branch] | None:
        return next(
            (s for s in reversed(self._seen) if s[0].shape == row.shape and torch.equal(s[0].to(row), row)), None
        )

    @torch.compiler.disable
    def _after_unet(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if running.get() not in (None, self._session):
            return None
        latents = kwargs.get("sample", args[0] if args else None)
        timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        prediction = output[0]
        changed = self.session.after_denoise(timestep, latents, prediction)
        if changed is prediction:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)


class _EncoderHook:
    """Gates for terms beside a text encoder's layers, from what the encoder itself says without them."""

    def __init__(self, host: DiffusersHost, name: str):
        self._host, self._name, self._busy = host, name, False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Encode once with the terms closed, open them by the result."""
        session = self._host.session
        if self._busy or running.get() not in (None, session):
            return
        self._busy = True
        try:
            session.banks.set(self._name, None)
            with torch.no_grad():
                session.gate_bank(self._name, self._encode)
                ids = kwargs.get("input_ids", args[0] if args else None)
                embeds = self._states(module, ids)
            session.banks.set(self._name, session.gate_bank(self._name, self._encode)(embeds, self._strip(ids)))
        finally:
            self._busy = False

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Close again: the next text has gates of its own."""
        session = self._host.session
        if not self._busy:
            session.banks.verify(self._name)
            session.banks.set(self._name, None)

    def _tokenizer(self) -> Any:
        return getattr(self._host.pipe, self._name.replace("text_encoder", "tokenizer"))

    def _encode(self, texts: list[str]) -> Encoded:
        tokens = self._tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        module = self._host.components()[self._name]
        return Encoded(self._states(module, tokens.to(self._host.pipe._execution_device)), self._strip(tokens))

    def _states(self, module: nn.Module, ids: Tensor) -> Tensor:
        # Not output_hidden_states: for that, transformers leaves hooks of its own on every layer.
        return module(ids).last_hidden_state

    def _strip(self, ids: Tensor) -> list[list[int]]:
        special = set(self._tokenizer().all_special_ids)
        return [[t for t in row if t not in special] for row in ids.tolist()]


def _texts(value: Any, rows: int) -> list[str | None]:
    """One text per row: a prompt is repeated for each of its images."""
    if value is None or isinstance(value, str):
        return [value] * rows
    return [text for text in value for _ in range(rows // max(len(value), 1))]


def _guarded(cls: type, host: DiffusersHost) -> type:
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
