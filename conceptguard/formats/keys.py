"""Taking a tensor's key apart: which layer it speaks of, and which part of the term it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from conceptguard.errors import ArtifactError

# The spellings, by who wrote the file:
#   kohya, SPM     lora_unet_mid_block_..._to_q.lora_down.weight   .lora_up.weight   .alpha
#   peft           base_model.model.<layer>.lora_A.weight          .lora_A.<adapter>.weight
#   diffusers      unet.<layer>.lora_A.weight; before it used peft: unet.<layer>.lora.down.weight,
#                  <attention>.processor.to_q_lora.down.weight,
# text_encoder.<layer>.lora_linear_layer.up.weight
_PARTS = r"(?:(?P<part>down|up)\.weight|(?P<alpha>alpha))\Z"
_SPELLINGS = [
    re.compile(r"(?P<layer>.+?)\.lora_(?P<ab>[AB])(?:\.[^.]+)?\.weight\Z"),
    re.compile(r"(?P<layer>.+?)\.lora_" + _PARTS),
    re.compile(r"(?P<layer>.+?)(?:\.processor)?\.(?P<leaf>to_[qkv]|to_out)_lora\." + _PARTS),
    re.compile(r"(?P<layer>.+?)\.(?:lora|lora_linear_layer)\." + _PARTS),
    re.compile(r"(?P<layer>.+?)\.(?P<alpha>alpha)\Z"),
]
# Not `up(down(x))`, so reading them as if they were would be silently wrong.
_OTHERS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a Tucker core",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "lora_embedding_": "a LoRA of an embedding",
    ".diff": "full weight differences",
    "vera_": "VeRA",
}


@lru_cache(maxsize=1 << 17)
def split_key(key: str) -> tuple[str, str] | None:
    """(layer as written, `down` | `up` | `alpha`) of a LoRA key; None for any other key."""
    for spelling in _SPELLINGS:
        found = spelling.match(key)
        if found is None:
            continue
        groups = found.groupdict()
        part = {"A": "down", "B": "up"}.get(groups.get("ab") or "") or groups.get("part") or "alpha"
        leaf = groups.get("leaf")
        return (f"{found['layer']}.{leaf}" if leaf else found["layer"]), part
    return None


def detect_format(keys: Iterable[str]) -> str:
    """`kohya`, `peft`, `diffusers`, `shared`, `uce`, `text_encoder`, or `sae`, told by the keys of a file.

    Raises ArtifactError for keys of a kind that cannot be read, naming the kind.
    """
    keys = list(keys)
    for key in keys:
        for mark, kind in _OTHERS.items():
            if mark in key:
                raise ArtifactError(
                    f"tensor {key[:120]!r} belongs to {kind}, which is not read: convert it to a plain LoRA"
                )
    if "shared.down" in keys:
        return "shared"
    if any(split_key(key) and not key.endswith(".alpha") for key in keys):
        if any(key.startswith("lora_") for key in keys):
            return "kohya"
        return "peft" if any(key.startswith("base_model.model.") for key in keys) else "diffusers"
    if any(".encoder.layers." in f".{key}" and ".self_attn." in key for key in keys) and any(
        "token_embedding" in key for key in keys
    ):
        return "text_encoder"
    if any(key.endswith(".weight") and ("blocks" in key or "block." in key) for key in keys):
        return "uce"
    shown = ", ".join(repr(key[:60]) for key in keys[:3]) or "no tensors at all"
    raise ArtifactError(f"not a format that is known here ({shown}): expected SPM, LoRA, UCE or a text encoder")
