"""The bench on which a case is judged: one pipeline, bare and guarded generations with fixed seeds."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import plugins
from ..errors import Refused
from ..hookspecs import Generation
from ..method import Method
from ..sessions.attach import attach
from ..sessions.session import Session
from .case import Case, NotApplicable, demand

T = TypeVar("T")
HOOKS = [name for name in vars(Generation) if not name.startswith("_")]


@cache
def embedded_model() -> Any:
    """The embedded model, loaded once per process, without progress bars."""
    from ..hosts.load import load_model

    pipe = load_model("emoji-sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Bench:
    """Runs a case. Every image of a batch has its own seed: row i of a batch and the same prompt alone are comparable.

    ``generate`` gives latents [rows, ...] as the pipeline has them, or pixels [rows, 3, h, w] for methods that look at
    images.
    """

    def __init__(self, case: Case):
        self.case = case
        self._own: dict[Any, Any] = {}  # what this case's guard gives, or no other case may see

    @cached_property
    def pipe(self) -> Any:
        """The pipeline, once warmed up: what a first generation leaves on it is no guard's trace."""
        pipe = (self.case.load or embedded_model)()
        self.generate(pipe, [self.case.unrelated[0]])
        return pipe

    @cached_property
    def method(self) -> type[Method]:
        """The method that is judged."""
        return plugins.method(self.case.guard["method"])

    @property
    def hooks(self) -> list[str]:
        """The generation hooks that the method implements."""
        return [name for name in HOOKS if name in plugins.hooks(self.method)]

    def policy(self, *guards: Mapping[str, Any]) -> dict[str, Any]:
        """A policy of these guards (by default the case's own) in which a violation can be seen in the pixels."""
        return {"name": "contract", "on_violation": "black", "guards": [dict(g) for g in guards or [self.case.guard]]}

    @contextmanager
    def attached(self, *guards: Mapping[str, Any], pipe: Any = None) -> Iterator[Session]:
        """The pipeline under these guards (by default the case's own)."""
        with attach(self.pipe if pipe is None else pipe, self.policy(*guards)) as session:
            yield session

    def generate(self, pipe: Any, prompts: Sequence[str] | None, seeds: Sequence[int] = (), **options: Any) -> Tensor:
        """One generation, row i from ``seeds[i]`` (by default i)."""
        if self.case.draw is not None:
            assert prompts is not None and not options, "a check asked for what this host does not take"
            return self.case.draw(pipe, prompts, seeds or range(len(prompts)))
        count = len(prompts) if prompts is not None else len(options["prompt_embeds"])
        count *= options.get("num_images_per_prompt", 1)
        generators = [torch.Generator().manual_seed(s) for s in seeds or range(count)]
        given = {**self.case.call, **options}
        if "negative_prompt_embeds" in given:
            given.pop("negative_prompt", None)
        elif isinstance(given.get("negative_prompt"), str):
            given["negative_prompt"] = [given["negative_prompt"]] * (len(prompts) if prompts is not None else count)
        out = pipe(
            prompt=None if prompts is None else list(prompts),
            num_inference_steps=self.case.steps,
            generator=generators,
            output_type="pt" if "check_image" in self.hooks else "latent",
            **given,
        )
        return torch.as_tensor(out.frames if hasattr(out, "frames") else out.images)

    def unguarded(self, what: Sequence[Any], make: Callable[[], T]) -> T:
        """What a pipeline gives without any guard, made once for all cases that call the same pipeline alike."""
        try:
            key = json.dumps([self.case.steps, "check_image" in self.hooks, self.case.call, what], sort_keys=True)
        except TypeError:  # tensors, say: what they hold is not seen from their names
            return self._once(repr(what), make)
        found = made_of(self.pipe)
        if found is None:
            return self._once(key, make)
        if key not in found:
            found[key] = make()
        return found[key]  # type: ignore[no-any-return]

    def bare(self, prompts: Sequence[str], seeds: Sequence[int] = (), **options: Any) -> Tensor:
        """A generation without any guard; made once."""
        what = ["bare", list(prompts), list(seeds), options]
        return self.unguarded(what, lambda: self.generate(self.pipe, prompts, seeds, **options))

    def alone(self, prompt: str) -> Tensor | None:
        """A prompt as the first one under the case's guard, for checks that compare with it; made once."""

        def draw() -> Tensor | None:
            with self.attached():
                return self.attempt([prompt])

        return self._once(("alone", prompt), draw)

    def _once(self, what: Any, make: Callable[[], T]) -> T:
        if what not in self._own:
            self._own[what] = make()
        return self._own[what]  # type: ignore[no-any-return]

    def attempt(
        self, prompts: Sequence[str], seeds: Sequence[int] = (), pipe: Any = None, **options: Any
    ) -> Tensor | None:
        """A guarded generation; None where a guard refuses the prompt, which is an answer as good as any."""
        try:
            return self.generate(self.pipe if pipe is None else pipe, prompts, seeds, **options)
        except Refused:
            return None

    @property
    def denoiser_name(self) -> str:
        """The component that predicts noise, e.g. "unet". Raises NotApplicable where there is none to be watched."""
        for name in ("unet", "transformer"):
            if getattr(self.pipe, name, None) is not None:
                return name
        raise NotApplicable("this host has no denoiser that could be watched")

    @property
    def denoises(self) -> bool:
        """Whether the host has a denoiser, which guards act on."""
        return self.case.draw is None

    def takes(self, argument: str) -> bool:
        """Whether the pipeline's calls know an argument."""
        if self.case.draw is not None:
            return False
        if hasattr(self.pipe, "blocks"):
            return argument in self.pipe.blocks.input_names
        return argument in inspect.signature(type(self.pipe).__call__).parameters

    def copied(self, dtype: torch.dtype | None = None) -> Any:
        """A pipeline whose denoiser is its own, to be adapted or offloaded; with a dtype every part, to be cast."""
        if not hasattr(self.pipe, "components"):
            raise NotApplicable("this host has no model of its own to be copied")

        def own_part(name: str, part: Any) -> Any:
            # Tokenizers are read only. So are the other models unless they are cast, and guards know what they said.
            shared = dtype is None and isinstance(part, nn.Module) and name != self.denoiser_name
            return part if shared or hasattr(part, "all_special_ids") else copy.deepcopy(part)

        parts = {name: own_part(name, part) for name, part in self.pipe.components.items()}
        if hasattr(self.pipe, "blocks"):  # a modular one, which makes its other components itself
            pipe = self.pipe.blocks.init_pipeline()
            placed = {*pipe.pretrained_component_names, "guider"}
            pipe.update_components(**{n: part for n, part in parts.items() if n in placed and part is not None})
        else:
            pipe = type(self.pipe)(**parts)
            pipe.set_progress_bar_config(disable=True)
        return pipe if dtype is None else pipe.to(dtype)

    def adapted(self, how: str, adapt: Callable[[], Any]) -> tuple[Any, Tensor, Tensor]:
        """A copy of the pipeline in another state, and what it gives unguarded for the prompt that opens and for an
        unrelated one. Guards leave it as it was, so small ones are kept for all cases."""
        found = made_of(self.pipe) if _is_small(self.pipe) else None
        if found is None:
            pipe = adapt()
        else:
            if how not in found:
                found[how] = adapt()
            pipe = found[how]
        opens, unrelated = [self.case.opens], list(self.case.unrelated[:1])
        pictures = [
            self.unguarded([how, prompts], lambda prompts=prompts: self.generate(pipe, prompts))  # type: ignore[misc]
            for prompts in (opens, unrelated)
        ]
        return pipe, *pictures


class _Made:
    """What was made with a pipeline in one state of its parts, which are kept, so that their names stay their own."""

    def __init__(self, parts: list[Any], state: Any):
        self.parts, self.state = parts, state
        self.found: dict[str, Any] = {}


_MADE: WeakKeyDictionary[Any, _Made] = WeakKeyDictionary()
_SMALL = 256 * 2**20


def made_of(pipe: Any) -> dict[str, Any] | None:
    """What was made with this pipeline and its parts as they are; None for a host whose state nobody can see."""
    if not isinstance(getattr(pipe, "components", None), dict) or not type(pipe).__weakrefoffset__:
        return None  # the latter: a pair of parts, say, which cannot be kept by what it is
    parts = [*pipe.components.items()]
    tensors = [t for _, part in parts if isinstance(part, nn.Module) for t in (*part.parameters(), *part.buffers())]
    state = (type(pipe), [(name, id(part)) for name, part in parts], [(id(t), t._version) for t in tensors])
    made = _MADE.get(pipe)
    if made is None or made.state != state:
        made = _MADE[pipe] = _Made([parts, tensors], state)
    return made.found


def _is_small(pipe: Any) -> bool:
    parts = [part for part in getattr(pipe, "components", {}).values() if isinstance(part, nn.Module)]
    return sum(t.numel() * t.element_size() for part in parts for t in part.parameters()) < _SMALL


def close(one: Tensor | None, other: Tensor | None, tolerance: float = 1e-4) -> bool:
    """Equal but for the rounding of another batch size; two refusals are equal."""
    if one is None or other is None:
        return one is other
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


def acted(bare: Tensor, guarded: Tensor | None) -> bool:
    """Whether a guard did anything that rounding would not: it changed the picture or refused it."""
    return guarded is None or not close(guarded, bare, 1e-3)


def leaves_alone(bench: Bench, pipe: Any, before: Tensor, when: str) -> None:
    """Demand that an unrelated prompt still gives ``before``, to the last bit."""
    after = bench.attempt(bench.case.unrelated[:1], pipe=pipe)
    demand(after is not None, f"{when}: the unrelated prompt {bench.case.unrelated[0]!r} is refused")
    demand(bool(torch.equal(after, before)), f"{when}: the unrelated prompt {bench.case.unrelated[0]!r} changes")  # type: ignore[arg-type]


def needs(package: str) -> Any:
    """An optional package, or NotApplicable."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise NotApplicable(f"{package} is not installed") from None
