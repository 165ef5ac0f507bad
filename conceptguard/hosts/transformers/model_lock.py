"""A model under a policy answers its session and nobody else.

Not only the model: also what stands inside of it and gives scores, or states that are one product away from them. A
wrapper around it (PEFT's, a compiled one) has no answers but the model's own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...errors import GuardError, SessionError

_turning = threading.RLock()  # a collection of garbage may come amid it, and let another session's model go
_REFUSED = (
    "the guarded model was called by itself, and scores would leave that no guard has seen: use generate(), or, in "
    "a loop of your own, conceptguard.logits_processor on the detached model"
)


def unwrapped(model: Any) -> Any:
    """The model that speaks, inside of what wraps it: the outermost one of transformers' own, else what was given."""
    if not isinstance(model, nn.Module) or speaks(model):
        return model
    return next((inner for inner in model.modules() if speaks(inner)), model)


def speaks(module: Any) -> bool:
    """Whether this is a model of transformers that generates."""
    own = any(base.__name__ == "PreTrainedModel" for base in type(module).__mro__)
    return own and callable(getattr(module, "generate", None)) and bool(module.can_generate())


def speaking(model: nn.Module) -> list[nn.Module]:
    """The model, what in it gives scores, its decoder, and all that these stand in, the outermost first."""
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    ends = [head if head is not inputs else None, getattr(model, "base_model", None)]
    if callable(decoder := getattr(model, "get_decoder", None)):
        ends.append(decoder())
    inner = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    return [module for name, module in model.named_modules()
            if not name or any(f"{end}.".startswith(f"{name}.") for end in inner)]  # fmt: skip


def guarded_by(model: Any) -> Any:
    """The session that a model is under, or None."""
    found = getattr(type(model), "_conceptguard", None)
    return found() if found is not None else None


def demand_free(*models: Any) -> None:
    """Raises SessionError where a policy is attached to one of these."""
    for session in filter(None, map(guarded_by, models)):
        raise SessionError(
            f"this model is already guarded by policy '{session.policy.name}': detach that session first"
        )


class _Inside(threading.local):
    depth = 0


class ModelLock:
    """Of one model. Shut, that answers in a thread only that is inside of ``opened``."""

    def __init__(self, model: Any):
        self.model = model
        self._inside = _Inside()
        self._threads = 0  # that are inside
        self._open = False  # whether any is: compiled code can depend on that, and on no thread
        self._own: list[tuple[nn.Module, type]] = []
        self._aside: dict[str, Any] = {}

    @property
    def inside(self) -> bool:
        """Whether this thread is inside of ``opened``."""
        return self._inside.depth > 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """This thread may call the model, again and again: ``generate`` calls itself for drafts."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, one: int) -> None:
        with _turning:
            self._inside.depth += one
            self._threads += one
            self._open = self._threads > 0

    def check(self) -> None:
        """Raises GuardError for whoever is outside."""
        if torch.compiler.is_dynamo_compiling():
            if not self._open:
                raise GuardError(_REFUSED)
        elif not self._inside.depth:
            raise GuardError(_REFUSED)

    def shut(self, session: Any, body: Mapping[str, Any]) -> None:
        """Turn the model into a subclass of its own class with ``body``, and what is inside likewise, without.

        session: a weak reference. Raises SessionError where any of it is guarded already.
        """
        modules = speaking(self.model)
        with _turning:
            demand_free(*modules)
            for name in ("generate", "_compiled_call"):  # of the object, which would be found before the class's
                if name in vars(self.model):
                    self._aside[name] = vars(self.model).pop(name)
            for module in modules:
                more = body if module is self.model else {}
                self._own.append((module, type(module)))
                module.__class__ = self._subclass(type(module), {**more, "_conceptguard": session})

    def give_back(self) -> None:
        """Every module its own class again. Nothing where it is not shut: that is asked by what is collected, too."""
        if not self._own:
            return
        with _turning:
            for module, own in self._own:
                module.__class__ = own
            vars(self.model).pop("_compiled_call", None)  # of the guarded class
            vars(self.model).update(self._aside)
            self._own, self._aside = [], {}

    def own(self, name: str) -> Callable[..., Any]:
        """What the model had under this name before; inside, what its class had: the object's own may call that."""
        if name in self._aside and not self.inside:
            return self._aside[name]  # type: ignore[no-any-return]
        cls = self._own[0][1] if self._own else type(self.model)
        return getattr(cls, name).__get__(self.model)  # type: ignore[no-any-return]

    def _subclass(self, cls: Any, body: Mapping[str, Any]) -> type:
        """With the same name, so that saving sees the original."""
        names = [name for name in ("__call__", "forward", "get_compiled_call") if hasattr(cls, name)]
        same = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        return type(cls.__name__, (cls,), {**{name: self._checked(cls, name) for name in names}, **body, **same})

    def _checked(self, cls: Any, name: str) -> Callable[..., Any]:
        original = getattr(cls, name)

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            self.check()
            return original(module, *args, **kwargs)

        return call
