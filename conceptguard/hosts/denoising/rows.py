"""Rows of whatever goes into a denoiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def pick_rows(value: Any, rows: list[int], total: int) -> Any:
    """Some rows of a call's arguments: of tensors with one entry per row, also in lists and dicts."""
    if isinstance(value, Tensor) and value.ndim and len(value) == total:
        return value[rows]
    if isinstance(value, (list, tuple)):
        return type(value)(pick_rows(v, rows, total) for v in value)
    return {k: pick_rows(v, rows, total) for k, v in value.items()} if isinstance(value, dict) else value
