"""Caches that diffusers puts inside a denoiser: what a block computed in one step stands in for it in later ones.

First block cache, SeaCache, MagCache, TaylorSeer, pyramid attention broadcast, FasterCache and whatever else is made of
diffusers' hooks with a state. A guard's own calls of the denoiser must neither read nor fill one, and what a guarded
generation left in it must not get into the next picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from ...errors import SessionError

# Those whose decision to compute follows from the step alone, whatever a batch holds.
_BY_STEP = ("mag_cache", "taylorseer_cache", "pyramid_attention_broadcast", "faster_cache", "text_kv_cache")


class Caches:
    """The caches of one denoiser. Looked for again after ``forget``: one may be enabled at any time."""

    def __init__(self, model: nn.Module):
        self._model: nn.Module = getattr(model, "_orig_mod", model)
        self._found: list[tuple[nn.Module, Any]] | None = None
        self._holding: set[int] = set()
        self._config: Any = None
        self._now: tuple[Any, Any] = None, None
        self._filled: dict[Any, Any] = {}

    def forget(self) -> None:
        """Empty them, and look for them anew."""
        self._found = None
        self.empty()

    def empty(self) -> None:
        """As before the first step, in whatever context the caller is."""
        self._filled.clear()
        for module, hook in self._hooks():
            if hook._is_stateful:
                kept = [(manager, _context(manager)) for manager in _managers(hook)]
                hook.reset_state(module)
                for manager, context in kept:
                    vars(manager).update(context)

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._hooks())

    def check(self) -> None:
        """Raises SessionError for a cache under which rows of a call are left out."""
        for _, hook in self._hooks():
            if type(hook).__name__ == "FasterCacheDenoiserHook" and not hook.is_guidance_distilled:
                raise SessionError(
                    "FasterCache leaves the unconditional rows out of most steps, and guards act row by row: set "
                    "is_guidance_distilled=True where the model is distilled, or use another cache (MagCache, "
                    "TaylorSeer, pyramid attention broadcast) or none (disable_cache())"
                )

    def by_rows(self) -> str:
        """The name of a cache that decides for all rows of a call by what they look like; else nothing."""
        return next((_name(hook) for _, hook in self._hooks() if _module(hook) not in _BY_STEP), "")

    def aside(self) -> AbstractContextManager[None]:
        """Meanwhile the model computes everything, and what is kept stays as it is."""
        return without([hook for _, hook in self._hooks()])

    def under(self, branches: Any, key: Any) -> None:
        """A call for these branches begins, and ``key`` is what guards make of it. What was kept of such a call under
        another key would undo that."""
        self._now = (self._context(), branches), key
        if self._filled.get(*self._now) != key:
            self.empty()

    def holds(self, part: nn.Module) -> bool:
        """Whether one of them may stand in for this module."""
        return self.any() and id(part) in self._holding

    def filled(self) -> None:
        """The call ended, and all of it ran: its likes may be stood in for from now on."""
        self._filled[self._now[0]] = self._now[1]

    def ready(self) -> bool:
        """Whether what is kept for the running call is of one like it."""
        return self._now[0] in self._filled

    def name(self) -> str:
        """For messages."""
        return next((_name(hook) for _, hook in self._hooks()), "")

    def _hooks(self) -> list[tuple[nn.Module, Any]]:
        config = getattr(self._model, "_cache_config", None)
        if self._found is None or config is not self._config:
            self._config, self._found = config, list(_cached(self._model))
            self._holding = {id(module) for module, _ in self._found}
        return self._found

    def _context(self) -> str | None:
        """The name of the caller's context: in most caches each branch has a state of its own."""
        for _, hook in self._hooks():
            for manager in _managers(hook):
                for context in _context(manager).values():
                    return getattr(context, "name", context)  # type: ignore[no-any-return]
        return None


@contextmanager
def without(hooks: list[Any]) -> Iterator[None]:
    """Meanwhile these hooks of diffusers do nothing."""
    refs = [hook.fn_ref for hook in hooks]
    kept = [(ref.pre_forward, ref.forward, ref.post_forward) for ref in refs]
    for ref in refs:
        ref.pre_forward, ref.forward, ref.post_forward = _given, ref.original_forward or ref.forward, _output
    try:
        yield
    finally:
        for ref, own in zip(refs, kept):
            ref.pre_forward, ref.forward, ref.post_forward = own


@contextmanager
def unskipped(model: nn.Module) -> Iterator[None]:
    """Meanwhile a guider leaves no layer of the model out."""
    registries: list[Any] = [m._diffusers_hook for m in model.modules() if hasattr(m, "_diffusers_hook")]
    hooks = [hook for registry in registries for hook in registry.hooks.values()]
    with without([hook for hook in hooks if "Skip" in type(hook).__name__]):
        yield


def _cached(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Modules with a hook that keeps something from call to call."""
    for module in model.modules():
        registry = vars(module).get("_diffusers_hook")  # asking a module for what it has not takes ten times as long
        for hook in registry.hooks.values() if registry is not None else ():
            if hook._is_stateful or _managers(hook):
                yield module, hook


def _managers(hook: Any) -> list[Any]:
    return [value for value in vars(hook).values() if hasattr(value, "get_state") and hasattr(value, "set_context")]


def _context(manager: Any) -> dict[str, Any]:
    """Under its name in this release of diffusers."""
    return {name: value for name, value in vars(manager).items() if name in ("_context", "_current_context")}


def _module(hook: Any) -> str:
    return type(hook).__module__.rpartition(".")[2]


def _name(hook: Any) -> str:
    return _module(hook).replace("_", " ")


def _given(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def _output(module: nn.Module, output: Any) -> Any:
    return output
