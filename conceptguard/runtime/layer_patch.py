"""Where terms join a layer: its ``forward`` is stood in for while something beside it is open.

A hook would do the same, but a module with any hook takes the slow way through ``Module.__call__``, which costs a small
model two to three per cent of a step, and compiled graphs do not look for new hooks. Hooks of others, of which some
look at outputs, come after the terms this way.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn


class Addend(Protocol):
    """What can be added to a layer's output."""

    def add_to(self, x: Any, y: Any) -> Any:
        """Add to ``y``, the layer's output, in place, or give what stands for it, and None for the former. x: its
        input, where that came by its place."""

    def instead(self, x: Any) -> Any:
        """The layer's output with what is added, where that is had for less than both; None where it is not."""


class LayerPatch:
    """A layer's ``forward`` with addends, in its place while there are any.

    One for each layer, and the same one each time: sessions may share a layer, and compiled graphs know it by identity.
    """

    def __init__(self, layer: nn.Module):
        self._layer = layer
        self._placed = False
        self._instance: Callable[..., Any] | None = None  # somebody else's stand-in, e.g. that of an offloader
        self._own: Callable[..., Any] = layer.forward
        self.addends: tuple[Addend, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(self.addends) == len(args) == 1 and self._instance is None and not kwargs:
            instead = self.addends[0].instead(args[0])
            if instead is not None:
                return instead
        y = self._own(*args, **kwargs)
        for addend in self.addends:
            instead = addend.add_to(args[0] if args else None, y)
            y = y if instead is None else instead
        return y

    def join(self, addend: Addend) -> None:
        """Add ``addend`` to every output of the layer from now on."""
        with _lock:
            if addend not in self.addends:
                self.addends += (addend,)
            if not self._placed:
                here = self._layer.__dict__.get("forward")
                if here is not self._instance:
                    self._instance, self._own = here, self._layer.forward
                self._layer.__dict__["forward"] = self
                self._placed = True

    def part(self, addend: Addend) -> None:
        """Stop adding it; the last one to part leaves the layer as it was."""
        with _lock:
            self.addends = tuple(other for other in self.addends if other is not addend)
            # Covered by somebody's later stand-in, which calls this one, it must stay; without addends it does nothing.
            if not self.addends and self._layer.__dict__.get("forward") is self:
                del self._layer.__dict__["forward"]
                if self._instance is not None:
                    self._layer.__dict__["forward"] = self._instance
                self._placed = False


_lock = threading.Lock()  # sessions of several threads may share a layer
_of_layer: weakref.WeakValueDictionary[int, LayerPatch] = weakref.WeakValueDictionary()


def layer_patch(layer: nn.Module) -> LayerPatch:
    """The layer's stand-in, not yet in its place unless somebody joined it."""
    with _lock:
        found = _of_layer.get(id(layer))
        if found is None:
            found = _of_layer[id(layer)] = LayerPatch(layer)
        return found
