"""The diffusers host for modular pipelines, whose text encoders and decoders are blocks and whose guidance is a guider.

While a policy is attached the pipeline runs a copy of its blocks: blocks are often shared between pipelines, and the
others' must not be guarded. In the copy, text-encoder blocks and decoder blocks are of guarded subclasses. A guider
calls the denoiser once for each of its branches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from inspect import getattr_static
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import GuardError
from ..denoising.families import family_of, unguarded
from .pipeline import PipelineHost, as_asked, is_modular, reseeded, subclass
from .prompts import texts_of

if TYPE_CHECKING:
    from ...protocols import DrawingSession


@dataclasses.dataclass
class _Call:
    """A pipeline call while it runs.

    draw: makes it, also with another generator; given: what the caller gave, in a state or by name
    attempt: which one, where flagged images are drawn again; looked: whether guards have seen its images
    """

    draw: Callable[..., Any]
    given: dict[str, Any]
    attempt: int = 0
    looked: bool = False


class ModularHost(PipelineHost):
    """Host adapter for one modular pipeline. Raises SessionError for one whose parts it does not know."""

    about = "a modular pipeline of diffusers"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """Any modular pipeline of diffusers."""
        return is_modular(target)

    def __init__(self, pipe: Any):
        family = family_of(pipe)
        readers = [block for block in _blocks(pipe._blocks) if _reads_text(block)]
        if not readers:
            raise unguarded(
                pipe, "none of its blocks encodes prompts in a known way, so nothing would read what is asked for; "
            )
        encode_prompt = partial(type(readers[0]).encode_prompt, pipe)
        super().__init__(pipe, dataclasses.replace(family, separate=True), encode_prompt)
        self._own_blocks = pipe._blocks
        self._guarded_blocks: list[Any] = []
        self._running: _Call | None = None

    def attach(self, session: DrawingSession) -> None:
        """As every pipeline, and with a copy of its blocks, of which some are guarded."""
        copy = deepcopy(self._own_blocks)
        for block in _blocks(copy):
            if _reads_text(block):
                block.__class__ = self._reader(type(block))
            elif _decodes(block):
                block.__class__ = self._decoder(type(block))
        super().attach(session)
        self.pipe._blocks = copy
        self._guarded_blocks = list(_blocks(copy))

    def detach(self) -> None:
        """Give the pipeline its own class and its own blocks back."""
        self.pipe._blocks = self._own_blocks
        self._guarded_blocks = []
        super().detach()

    def _routes(self) -> dict[str, Any]:
        cls, host = self._own_class, self

        def __call__(self: Any, state: Any = None, output: Any = None, **kwargs: Any) -> Any:
            return host.call(cls.__call__.__get__(self), state, output, **kwargs)

        return {"__call__": __call__}

    def _reader(self, cls: Any) -> type:
        host = self

        def encode_prompt(components: Any, *args: Any, **kwargs: Any) -> Any:
            own = partial(cls.encode_prompt, components)
            return host.encode_prompt(own, *args, **kwargs)

        return subclass(cls, encode_prompt=staticmethod(encode_prompt), __deepcopy__=_unguarded_copy)

    def _decoder(self, cls: Any) -> type:
        host = self

        def __call__(self: Any, components: Any, state: Any) -> Any:
            return host.decode(cls.__call__.__get__(self), components, state)

        return subclass(cls, __call__=__call__, __deepcopy__=_unguarded_copy)

    def call(self, original: Any, state: Any, output: Any, **kwargs: Any) -> Any:
        """A guarded ``pipe(...)``."""
        blocks = list(_blocks(self.pipe._blocks))
        if len(blocks) != len(self._guarded_blocks) or any(a is not b for a, b in zip(blocks, self._guarded_blocks)):
            raise GuardError("the pipeline's blocks were changed after attaching: detach, then attach again")
        looks = self.asked.has("check_image")
        wanted = [output] if isinstance(output, str) else output
        if looks and wanted is not None and "images" not in wanted:
            raise GuardError(f"this policy looks at images, and output={output!r} returns none: ask for 'images' too")
        call = _Call(partial(original, state, None, **kwargs), {**(state.values if state else {}), **kwargs})

        def draw() -> Any:
            outer, self._running = self._running, call
            try:
                return call.draw()
            except BaseException:
                self._take_back_hooks()
                raise
            finally:
                self._running = outer

        def finish(result: Any) -> Any:
            if self.session.has("encode_prompt") and not self._memory.encoded:
                raise GuardError("a guard of this policy reads prompts, and no block encoded one: give a prompt")
            if looks and not call.looked:
                raise GuardError("this policy looks at images, and no block of this pipeline decoded any")
            if self.session.receipt.action not in (None, "flag"):
                result.set("latents", None)  # they are the flagged image
            return result if output is None else result.get(output)

        return self.generate(draw, self._guidance(), finish)

    def _take_back_hooks(self) -> None:
        """A guider puts hooks on the denoiser for one branch, and a run that raises in it leaves them there."""
        guider = getattr(self.pipe, "guider", None)
        kept = vars(guider) if guider is not None else {}
        names = [name for key, found in kept.items() if key.endswith("hook_names") for name in found or ()]
        for part in self.model.modules() if names else ():
            registry: Any = getattr(part, "_diffusers_hook", None)
            for name in names if registry is not None else ():
                registry.remove_hook(name, recurse=False)

    def decode(self, original: Any, components: Any, state: Any) -> Any:
        """A guarded decoder block: its images leave it after every guard has seen them."""
        call = self._running
        if call is None or not self.session.has("check_image"):
            return original(components, state)
        asked = state.get("output_type") or "pil"
        if asked == "latent":
            raise GuardError("this policy looks at images, and output_type='latent' returns none: ask for images")
        state.set("output_type", "pt")
        components, state = original(components, state)
        state.set("output_type", asked)
        if call.attempt:
            return components, state  # one of another attempt, looked at where the first one was
        call.looked = True

        def again(attempt: int) -> Tensor:
            call.attempt = attempt
            redraw = partial(call.draw, generator=reseeded(call.given.get("generator"), attempt))
            images: Tensor = self.anew(redraw).get("images")
            call.attempt = 0
            return images

        images, prompt = state.get("images"), state.get("prompt")
        # From latents that the caller gave, the same image would come again.
        may = again if call.given.get("latents") is None else None
        pixels = self.session.check_image(images, texts_of(prompt, len(images)), may)
        state.set("images", as_asked(self.pipe, pixels, asked))
        return components, state

    def _guidance(self) -> float | None:
        """The scale of classifier-free guidance; None where somebody else's code composes predictions as it likes."""
        guider = getattr(self.pipe, "guider", None)
        tree = _tree(self.pipe._blocks)
        composing = [block for block in tree if any(c.name == self.denoiser_name for c in block.expected_components)]
        if not all(type(block).__call__.__module__.startswith("diffusers.") for block in composing):
            return None
        return 1.0 if guider is None or not guider._enabled else scale_of(guider)

    def _away(self, rows: int) -> list[bool | None]:
        """A guider tells before each call of the denoiser which of its branches this is."""
        guider = getattr(self.pipe, "guider", None)
        if guider is None or self.session.guidance_scale is None:
            return [None] * rows
        # LTX-2's calls each of its branches conditional.
        towards = None if type(guider).__name__ == "LTX2Guidance" else getattr(guider, "is_conditional", None)
        return [None if towards is None else not towards] * rows


_SCALES = ("guidance_scale", "adaptive_projected_guidance_scale")
# Settings of a guider, and within which bounds they leave both of its branches on the side that its scale says.
_KEEP_SIDES = {
    "guidance_rescale": (0.0, 1.0),
    "eta": (0.0, float("inf")), "parallel_weights": (0.0, float("inf")),  # along the prediction, and across it
    "adaptive_projected_guidance_momentum": (-1.0, 1.0),
    "adaptive_projected_guidance_rescale": (1.0, float("inf")),  # how long the way may be; 0 is any length
}  # fmt: skip


def scale_of(guider: Any) -> float | None:
    """What of a guider's picture is its prompt's: w in (1 - w) ε_n + w ε_p; None where that is not one number."""
    if not type(guider).__module__.startswith("diffusers."):
        return None
    scales = _numbers(guider, ("guidance_scales",)) or _numbers(guider, _SCALES)
    kept = all(
        low <= n <= high or n == 0 for name, (low, high) in _KEEP_SIDES.items() for n in _numbers(guider, (name,))
    )
    if not scales or not kept:
        return None
    # Ho and Salimans count from the prompt, diffusers from the unconditional prediction.
    scales = [n + bool(getattr(guider, "use_original_formulation", False)) for n in scales]
    if min(scales) >= 1:
        return max(scales)
    # With less, a negative prompt is drawn, and in the steps that such a guider leaves alone the prompt is.
    whole = (guider._start, guider._stop) == (0.0, 1.0)
    plain = type(guider).__name__ == "ClassifierFreeGuidance"
    return scales[0] if plain and whole else None


def _numbers(guider: Any, names: Sequence[str]) -> list[float]:
    """A guider's settings of these names, each a number or several."""
    found = [value for name in names if (value := getattr(guider, name, None)) is not None]
    return [float(n) for value in found for n in (value if isinstance(value, (list, tuple)) else [value])]


def _tree(block: Any) -> Iterator[Any]:
    """A block and all that are in it."""
    yield block
    for inner in block.sub_blocks.values():
        yield from _tree(inner)


def _blocks(block: Any) -> Iterator[Any]:
    """The blocks of a tree that have none in them: those that do the work."""
    return (inner for inner in _tree(block) if not inner.sub_blocks)


def _reads_text(block: Any) -> bool:
    return isinstance(getattr_static(type(block), "encode_prompt", None), staticmethod)


def _decodes(block: Any) -> bool:
    gives, takes = ({param.name for param in params} for params in (block.intermediate_outputs, block.inputs))
    return "images" in gives and {"latents", "output_type"} <= takes


def _unguarded_copy(block: Any, memo: dict[int, Any]) -> Any:
    """A copy of a guarded block is nobody's: ``pipe.blocks`` gives copies."""
    own = type(block).__mro__[1]
    copy: Any = object.__new__(own)
    memo[id(block)] = copy
    vars(copy).update(deepcopy(vars(block), memo))
    return copy
