"""What ordinary captions look like to an encoder, kept between processes.

Making an artifact and attaching a guard both begin with the same hundred captions. What an encoder says of them hangs
on its weights alone, so it is kept under a mark of these, in the user's cache: worthless for other weights, and read
back only where encoder and tokenizer still say the same. Several writers write the same, each of them whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import ConceptGuardError
from ..files.atomic import read_limited, write_bytes

Text = tuple[Tensor, list[int]]

_MOST_BYTES = 256 * 1024 * 1024
_KEPT = 16  # encoders whose captions are kept; the least recently written go first
_TOKENS = "tokens"


def path_of(folder: Path, kind: str, mark: str, captions: Sequence[str]) -> Path:
    """The file about encoders of this mark. kind: which of their outputs"""
    told = json.dumps([kind, mark, torch.__version__, list(captions)])
    return folder / "captions" / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.safetensors"


def keep(path: Path, measured: Mapping[str, Tensor], texts: Mapping[str, Text]) -> None:
    """Write what was measured, and each caption's own tokens and ids. Where the cache cannot be written, it is measured
    again next time.
    """
    tensors = {**measured, _TOKENS: torch.cat([own for own, _ in texts.values()])}
    ids, lengths = [row for _, row in texts.values()], [len(own) for own, _ in texts.values()]
    metadata = {"ids": json.dumps(ids), "lengths": json.dumps(lengths)}
    with contextlib.suppress(ConceptGuardError, OSError):
        write_bytes(path, save({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, metadata))
        _forget_oldest(path.parent)


def recall(
    path: Path, probe: Tensor, captions: Sequence[str], tokens: Callable[[list[str]], list[list[int]]]
) -> tuple[dict[str, Tensor], dict[str, Text]] | None:
    """What is kept, on the probe's device: what was measured, and by caption its own tokens and ids.

    None where there is nothing, or it is damaged, or the encoder says another ``probe`` or cuts texts otherwise now.
    """
    try:
        data = read_limited(path, _MOST_BYTES)
        tensors, said = load(data), json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        ids = json.loads(said["ids"])
        parts = tensors.pop(_TOKENS).to(probe.device).split(json.loads(said["lengths"]))
        measured = {name: one.to(probe.device) for name, one in tensors.items()}
        good = measured["probe"].dtype == probe.dtype and torch.equal(measured["probe"], probe)
        good = good and all(bool(one.isfinite().all()) for one in (*measured.values(), *parts))
    except (ConceptGuardError, OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    if not good or not len(ids) == len(parts) == len(captions) or ids != list(map(list, tokens(list(captions)))):
        return None
    return measured, {text: (own, row) for text, own, row in zip(captions, parts, ids)}


def _forget_oldest(folder: Path) -> None:
    by_age = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-_KEPT]:
        path.unlink(missing_ok=True)
