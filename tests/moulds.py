"""Tiny pipelines cast from a mould: initialised once, and new to the last tensor for every test that asks for one."""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Callable
from typing import Any

import torch


class _Pickler(pickle.Pickler):
    """Tensors, tokenizers and functions stand beside the pickle, where no bytes are made of them."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.beside: list[Any] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, (torch.Tensor, types.FunctionType)) and not hasattr(thing, "all_special_ids"):
            return None
        if id(thing) not in self._places:
            self._places[id(thing)] = len(self.beside)
            self.beside.append(thing)
        return self._places[id(thing)]


class _Unpickler(pickle.Unpickler):
    """Every tensor is a copy, one for all places where it stood; the others are themselves, as ``deepcopy`` has it."""

    def __init__(self, data: bytes, beside: list[Any]):
        super().__init__(io.BytesIO(data))
        self._beside, self._copies = beside, dict[int, Any]()

    def persistent_load(self, place: int) -> Any:
        thing = self._beside[place]
        if not isinstance(thing, torch.Tensor):
            return thing
        if place not in self._copies:
            copy = thing.detach().clone()
            is_parameter = isinstance(thing, torch.nn.Parameter)
            self._copies[place] = torch.nn.Parameter(copy, thing.requires_grad) if is_parameter else copy
        return self._copies[place]


def moulded(make: Callable[..., Any]) -> Callable[..., Any]:
    """A maker whose pipelines are made once and copied; torch's randomness goes on as if they were made anew."""
    moulds: dict[tuple[int, int], tuple[bytes, list[Any], torch.Tensor, Any]] = {}

    @functools.wraps(make)
    def cast(tokenizer: Any, seed: int = 0) -> Any:
        key = id(tokenizer), seed
        if key not in moulds:
            pickler = _Pickler(file := io.BytesIO())
            pickler.dump(make(tokenizer, seed))
            moulds[key] = file.getvalue(), pickler.beside, torch.get_rng_state(), tokenizer
        data, beside, random, _ = moulds[key]
        torch.set_rng_state(random)
        return _Unpickler(data, beside).load()

    return cast
