"""What classic and modular diffusers pipelines have in common as hosts; which can be guarded, see ``families``.

A guarded pipeline is of a subclass of its own class, so that its calls pass through the session; what its text encoders
say is read on the way, see ``prompts``, and what the denoiser receives is guarded at the denoiser itself, see
``denoiser_hooks``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError, SessionError
from ...formats import read_weights_of
from ...registry.fingerprint import check_base, fingerprint
from ...runtime.bank import running
from ...runtime.lowrank import Factors, LayerIndex
from ...runtime.once import once
from ...runtime.turns import Turn, turn_of
from ..denoising.families import Family
from ..denoising.noise_levels import NoiseLevels
from ..denoising.text_encoders import is_clip
from . import prompts
from .adapters import Adapters
from .callers import Callers
from .denoiser import Denoiser, denoiser_of
from .denoiser_hooks import DenoiserHooks
from .encoder_gates import EncoderGates
from .encoding_options import options_of, read_otherwise
from .in_files import fetch_from
from .learnt_words import knowing
from .perturbed import Perturbed
from .probing import predicted, wearing
from .reading import ENCODERS, ReadingHost
from .side_networks import Networks
from .sides import Side, Sides
from .step_proof import proved

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ...protocols import DrawingSession
    from ...registry import Artifact


class PipelineHost(ReadingHost):
    """Host adapter for one pipeline. Subclass, tell the family and the pipeline's own ``encode_prompt``."""

    def __init__(self, pipe: Any, family: Family, encode_prompt: Callable[..., Any]):
        if getattr(pipe, "_conceptguard", None) is not None:
            raise SessionError("this pipeline is already guarded: detach that session first")
        super().__init__(pipe, family, encode_prompt)
        self._own_class = type(pipe)
        self._parts = self.components()
        self._sides, self._gated = Sides(self), set[str]()
        self._handles: list[Any] = []
        self._perturbed = Perturbed(pipe, self.model)
        self._proofs: list[Any] = []
        self._denoiser_hooks = DenoiserHooks(
            self.model,
            family,
            self._sides,
            self.name,
            self._away,
            lambda: pipe.scheduler,
            self._perturbed,
            Networks(pipe, self.model, family),
        )

    # What a session and a method may ask.

    def layers(self) -> LayerIndex:
        """Linear and convolution layers of the denoiser and the text encoders under diffusers names."""
        return once(self, "layers", lambda: LayerIndex(self.components()))

    def weights(self) -> Callable[[str], Tensor]:
        """Weights by canonical names of layers, also of those that group offloading keeps in files."""
        return read_weights_of(self.layers(), fetch_from(self.components().values()))

    def compiled(self) -> bool:
        """Whole or in part, by ``torch.compile(pipe.unet)`` or ``pipe.unet.compile()``."""

        def ask() -> bool:
            parts = [part for part in self.pipe.components.values() if isinstance(part, nn.Module)]
            # Of hundreds of modules, of which ``hasattr`` would raise an error each.
            return any(
                "_orig_mod" in m._modules or m._compiled_call_impl is not None for p in parts for m in p.modules()
            )

        return once(self, "compiled", ask, place=True)

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""
        return once(self, "fingerprint", lambda: fingerprint(self.layers().shapes()))

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""
        check_base(artifact, self.fingerprint(), encoders=self.encoder_fingerprint)

    def denoiser(self) -> Denoiser:
        """The denoiser as a plain function with its noise schedule, for methods that learn.

        Raises SessionError for kinds that none learns on.
        """
        return denoiser_of(self.pipe, self.name)

    def noise_levels(self) -> NoiseLevels:
        """How much picture and how much noise latents hold at a timestep of the pipeline's schedule."""
        return NoiseLevels(self.pipe.scheduler)

    def attends(self) -> bool:
        """Whether the denoiser's attention to text can be read, token by token: a UNet's can."""
        return self._denoiser_hooks.attends

    def predict(
        self, text: str, latents: Tensor, timestep: int, step: int = 0, vectors: Tensor | None = None,
        guarded: bool = True,
    ) -> Tensor:  # fmt: skip
        """See ``Host.predict``."""

        def encode(text: str) -> Any:
            own, given = self._encode_prompt, {"prompt": [text], "device": self.device_dtype()[0], **self._plainly}
            if not guarded:
                return own(**given)
            # What an earlier call left in the denoiser's hooks is not of this one.
            self._denoiser_hooks.forget(look=False)
            self._memory.begin()
            return self._encoded(own, **given)

        return predicted(self, encode, text, latents, timestep, step, vectors, guarded)

    def knowing(self, words: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """See ``Host.knowing``."""
        return knowing(self.pipe, words)

    def wearing(self, lora: Mapping[str, Factors]) -> AbstractContextManager[None]:
        """See ``Host.wearing``."""
        return wearing(self.pipe, lora)

    # Routing.

    @classmethod
    def sole(cls, target: Any) -> Any:
        """The pipeline."""
        return target

    def turn(self) -> Turn:
        """That of the denoiser, which other pipelines may share."""
        return turn_of(self.model)

    def attach(self, session: DrawingSession) -> None:
        """Turn the pipeline into its guarded subclass and hook the denoiser and, where terms need it, the encoders."""
        side = self._side(session)
        self.pipe.__class__ = subclass(self._own_class, _conceptguard=self, **self._asked_once(), **self._routes())
        self._denoiser_hooks.open()
        self._gate_encoders(session)
        self._sides.add(side)

    def add(self, session: DrawingSession) -> None:
        """The same pipeline under another policy, where that is chosen."""
        side = self._side(session)
        hooked = set(ENCODERS) & session.banks.prefixes() <= self._gated
        if not hooked and self.compiled():  # a compiled encoder looks for no new hooks
            raise SessionError(
                f"policy '{session.policy.name}' acts in a text encoder, the attached one does not, and {self.name} is "
                "compiled: attach the one that does, compile, then use the others in its place"
            )
        self._gate_encoders(session)
        self._sides.add(side)

    def _side(self, session: DrawingSession) -> Side:
        """Raises SessionError for a policy that this pipeline cannot be under."""
        self._denoiser_hooks.check()
        prefixes = session.banks.prefixes()
        for name in set(ENCODERS) & prefixes:
            if not is_clip(self.components()[name]):
                raise SessionError(f"terms beside {name} of this pipeline, which is no CLIP, cannot be gated")
        if self.family.separate and session.banks.coupled:
            raise SessionError(
                f"compat: official opens what a picture is drawn away from as far as its prompt, and {self.name} makes "
                "a call for each: use compat: paper"
            )
        names = [self.denoiser_name, *(name for name in ENCODERS if name in prefixes)]
        adapters = {name: Adapters(session, name, self.components()[name]) for name in names}
        return Side(session, prompts.Memory(self._nothing), Callers(self.model), adapters)

    def _gate_encoders(self, session: DrawingSession) -> None:
        for name in ENCODERS:
            if name in session.banks.prefixes() and name not in self._gated:
                self._gated.add(name)
                hook = EncoderGates(self, name, self._sides)
                encoder = self.components()[name]
                self._handles += [encoder.register_forward_pre_hook(hook.before, with_kwargs=True)]
                self._handles += [encoder.register_forward_hook(hook.after)]
                self._handles += [encoder.register_forward_hook(hook.ended, always_call=True)]

    def drop(self, session: DrawingSession) -> None:
        """It is not chosen any more."""
        _forget(self._sides.pop(session))

    def detach(self) -> None:
        """Give the pipeline its own class back and remove every hook."""
        self.pipe.__class__ = self._own_class
        self._denoiser_hooks.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._gated.clear()
        for side in self._sides.pop_all():
            _forget(side)

    def _asked_once(self) -> dict[str, Any]:
        """Where it runs, which takes a walk through every module, is asked once a generation; in a loop of the
        caller's own always anew."""
        own = getattr(self._own_class, "_execution_device", None)
        if not isinstance(own, property):
            return {}
        return {
            "_execution_device": property(lambda pipe: once(pipe, "device", partial(own.__get__, pipe), place=True))
        }

    def _routes(self) -> dict[str, Any]:
        """The methods of the guarded subclass."""
        raise NotImplementedError

    def _away(self, rows: int) -> list[bool | None]:
        """See ``DenoiserHooks``."""
        raise NotImplementedError

    @property
    def session(self) -> DrawingSession:
        """The one that generates here, else the one that a new call is under."""
        side = self._sides.at_work()
        assert side is not None
        return side.session

    @property
    def asked(self) -> DrawingSession:
        """The one that a new call is under, also where it is made inside of another one."""
        side = self._sides.asked()
        assert side is not None
        return side.session

    @property
    def _memory(self) -> prompts.Memory:
        side = self._sides.at_work()
        return self._no_memory if side is None else side.memory

    def generate(
        self, draw: Callable[[], Any], guidance: float | None, finish: Callable[[Any], Any] = lambda result: result
    ) -> Any:
        """One guarded generation. One at a time: all that is remembered of a call is remembered in here.

        draw: the pipeline's own call; finish: what comes after it, before anything leaves
        """
        for name, part in self._parts.items():
            if getattr(self.pipe, name) is not part:
                raise GuardError(f"pipe.{name} was replaced after attaching: detach, then attach again")
        self._denoiser_hooks.check_networks()

        def generation() -> Any:
            result = self.anew(draw)
            if not self.session.steps:
                raise GuardError(
                    "the denoiser ran past the guards, compiled before they were there: attach, then compile"
                )
            return finish(result)

        return self.asked.run(generation, guidance)

    def anew(self, draw: Callable[[], Any]) -> Any:
        """One call of the pipeline, the first or, for a flagged image, another one."""
        self._denoiser_hooks.forget()
        self._denoiser_hooks.check()
        self._memory.begin()
        with proved(getattr(self.pipe, "scheduler", None), self.session, self._proofs):
            try:
                with self._perturbed.restored():
                    result = draw()
                self._denoiser_hooks.check_stepped()
                return result
            finally:
                self._denoiser_hooks.forget()

    @torch.no_grad()
    def encode_prompt(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """A guarded ``encode_prompt(...)``: guards see every condition, and what it returns is remembered."""
        with self.turn():
            return self._encoded(original, *args, **kwargs)

    def _encoded(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        out = original(*args, **kwargs)
        away = self._encodes_negative()
        self._memory.encoded += running.get() is self.session
        self._memory.options = options = options_of(bound.arguments, self._defaults)
        read = self.read if read_otherwise(options) else None
        # What a guard writes anew is encoded as the prompt was, with terms beside the encoders' layers.
        under = self.session if set(ENCODERS) & self.session.banks.prefixes() else None
        encode, encode_negative = (partial(f, under=under) for f in (self.encode, self.encode_negative))
        return prompts.guarded(
            self.session, self.family, self._memory, bound.arguments, out, away, self.tokens, encode, encode_negative,
            read,
        )  # fmt: skip

    def _encodes_negative(self) -> bool:
        """Whether this call of ``encode_prompt`` is for a negative prompt, in pipelines that make it by itself."""
        return False


def _forget(side: Side | None) -> None:
    if side is not None:
        side.memory.clear()
        side.callers.clear()


def subclass(cls: Any, **body: Any) -> type:
    """A subclass with the same name, so that saving and converting see the original."""
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**own, **body})


def reseeded(generator: Any, attempt: int) -> Any:
    """Generators for the n-th retry, a function of the caller's seeds; without a caller's, noise is new anyway."""
    if isinstance(generator, list):
        return [reseeded(one, attempt) for one in generator]
    if generator is None:
        return None
    return torch.Generator(generator.device).manual_seed((generator.initial_seed() + 1_000_003 * attempt) % 2**63)


def as_asked(pipe: Any, pixels: Tensor, output_type: str) -> Any:
    """Images [n, 3, h, w] in [0, 1] in the form that the caller wants."""
    return pipe.image_processor.postprocess(pixels * 2 - 1, output_type=output_type)


def is_diffusers(target: Any) -> bool:
    """Whether an object is of a class of diffusers, or of one derived from it."""
    return any(cls.__module__.split(".", 1)[0] == "diffusers" for cls in type(target).__mro__)


def is_modular(target: Any) -> bool:
    """Whether it is a modular pipeline, by the name of its class: not every release of diffusers has that."""
    return is_diffusers(target) and any(cls.__name__ == "ModularPipeline" for cls in type(target).__mro__)
