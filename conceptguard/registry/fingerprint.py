"""A short name for an architecture, equal for every fine-tuned sibling of a base model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from conceptguard.errors import BaseMismatch, RegistryError

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact

_PARTS = ("unet.", "transformer.")
_BLOCKS = ("attentions", "transformer_blocks")


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """`arch:` and 16 hex digits over the attention layers of a model.

    `shapes` maps canonical layer names (with their component: `unet.`, `transformer.`, `text_encoder.`), with
    or without `.weight`, to weight shapes. Counted are linear and convolution weights (2 or more dimensions)
    in the attention blocks of the UNet or transformer; adapters that are loaded beside them are not. A model
    without such blocks (a language model) is told by all its layers. Raises RegistryError when nothing is
    left to count.
    """
    layers = {}
    for name, shape in shapes.items():
        if name.endswith(".bias") or ".lora_" in name or len(shape) < 2:
            continue
        layers[name.removesuffix(".weight").replace(".base_layer", "")] = [int(n) for n in shape]
    counted = {n: s for n, s in layers.items() if n.startswith(_PARTS) and any(block in n for block in _BLOCKS)}
    counted = counted or layers
    if not counted:
        raise RegistryError(
            "no linear or convolution layers to take a fingerprint of: pass the layers of a whole model"
        )
    text = json.dumps(sorted(counted.items()), separators=(",", ":"))
    return "arch:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def encoder_fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """`text:` and 16 hex digits over the blocks of a model's text encoders; "" where it has none.

    Of artifacts that act in text encoders alone: whatever draws with these encoders takes them.
    """
    counted = {}
    for name, shape in shapes.items():
        if name.startswith("text_encoder") and ".layers." in name:
            # transformers 5 dropped a step of the path.
            counted[name.replace(".base_layer", "").replace(".text_model.", ".", 1)] = [int(n) for n in shape]
    if not counted:
        return ""
    text = json.dumps(sorted(counted.items()), separators=(",", ":"))
    return "text:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def check_base(artifact: Artifact, found: str, what: str = "model", encoders: Callable[[], str] = lambda: "") -> None:
    """Raises BaseMismatch when an artifact was made for another architecture than the fingerprint ``found``.

    what: how the host's users call a model; encoders: the fingerprint of its text encoders, for artifacts that act in
    those alone
    """
    made_for = artifact.manifest.base
    if made_for.fingerprint.startswith("text:") and not (found := encoders()):
        raise BaseMismatch(
            f"{artifact.ref} acts in text encoders, and this {what} has none within reach: attach it to a model with "
            "its text encoders"
        )
    if made_for.fingerprint and made_for.fingerprint != found:
        raise BaseMismatch(
            f"{artifact.ref} was made for {made_for.family} ({made_for.fingerprint}), this {what} is {found}: use an "
            "artifact made for this base, see `conceptguard list`"
        )
