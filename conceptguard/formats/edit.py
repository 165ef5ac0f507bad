"""Edits of what layers read, kept without what the base model knows itself.

An edit in closed form is one T for all layers that read the same of a prompt: W becomes W T, T - I = shiftᵀ down. Its
terms are ``down`` and, layer by layer, W shiftᵀ, which for many concepts is nearly all of a file. The file holds down
and shift, and the layers' names; what W makes of shift is worked out where W is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats.names import Names

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.lowrank import Factors

_DOWN, _SHIFT = ".edit.down", ".edit.shift"


def is_edit(keys: Iterable[str]) -> bool:
    """Whether these are the tensors of such a file."""
    return any(key.endswith(_SHIFT) for key in keys)


def write_edit(
    edits: Mapping[Any, tuple[Tensor, Tensor, Iterable[str]]],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. edits: by the stream that they are of, (down, shift, names of layers), both [r, d]."""
    tensors, metadata = {}, {}
    for stream, (down, shift, layers) in edits.items():
        tensors[f"{stream}{_DOWN}"] = down.float().cpu().contiguous()
        tensors[f"{stream}{_SHIFT}"] = shift.float().cpu().contiguous()
        metadata[f"layers.{stream}"] = " ".join(layers)
    return tensors, metadata


def layers_of_edit(keys: Iterable[str], metadata: Mapping[str, str]) -> dict[str, str]:
    """The stream of every layer, by its name as written. Raises ArtifactError for a file that does not say."""
    found: dict[str, str] = {}
    for key in keys:
        stream, dot, part = key.partition(".edit.")
        if not dot or part not in ("down", "shift"):
            raise ArtifactError(f"tensor {key[:160]!r} has no place in an edit of what layers read: make it again")
        layers = metadata.get(f"layers.{stream}", "").split()
        if not layers:
            raise ArtifactError(f"the file does not say which layers read {stream[:60]!r}: make the artifact again")
        found.update(dict.fromkeys(layers, stream))
    return found


def read_edit(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], names: Names,
    base_weights: Callable[[str], Tensor] | None,
) -> dict[str, Factors]:  # fmt: skip
    """Terms, with ``up`` from the base model's own weights [out, inputs], whose first d inputs are the text.

    Raises ArtifactError without ``base_weights`` and for a damaged file, BaseMismatch for another base model.
    """
    import torch

    from conceptguard.runtime.lowrank import Factors

    layers = layers_of_edit(tensors, metadata)
    if base_weights is None:
        raise ArtifactError("the file holds an edit of what layers read: name the base model with `--model FOLDER`")
    terms: dict[str, Factors] = {}
    wide: dict[tuple[str, int], Tensor] = {}
    for written, stream in layers.items():
        down, shift = (tensors.get(f"{stream}{part}") for part in (_DOWN, _SHIFT))
        if down is None or shift is None or down.ndim != 2 or down.shape != shift.shape:
            raise ArtifactError(
                f"the edit of {stream[:60]!r} is not two matrices of one shape: make the artifact again"
            )
        name, width = names.find(written), down.shape[1]
        if name.startswith("text_encoder"):
            raise ArtifactError(
                f"layer {name} reads no encoding of a text, which an edit is of: make the artifact again"
            )
        weight = base_weights(name)
        if weight.ndim != 2 or weight.shape[1] < width:
            raise BaseMismatch(
                f"layer {name} is {list(weight.shape)}, but the edit was made for one that reads {width} numbers: use "
                "an artifact made for this base model"
            )
        inputs = int(weight.shape[1])
        if (stream, inputs) not in wide:
            wide[stream, inputs] = torch.nn.functional.pad(down, (0, inputs - width))
        up = weight[:, :width].to(torch.float32) @ shift.to(weight.device, torch.float32).T
        terms[name] = Factors(wide[stream, inputs], up.to(down), 1.0)
    return terms
