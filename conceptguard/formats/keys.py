"""Taking a tensor's key apart: which layer it speaks of, and which part of the change it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from conceptguard.errors import ArtifactError
from conceptguard.formats.beside import is_beside
from conceptguard.formats.edit import is_edit

# The spellings, by who wrote the file:
#   kohya, SPM     lora_unet_mid_block_..._to_q.lora_down.weight   .lora_up.weight   .alpha
#   peft           base_model.model.<layer>.lora_A.weight          .lora_A.<adapter>.weight
#   diffusers      unet.<layer>.lora_A.weight; before it used peft: unet.<layer>.lora.down.weight,
#                  <attention>.processor.to_q_lora.down.weight,
#                  text_encoder.<layer>.lora_linear_layer.up.weight
#   XLabs          double_blocks.<n>.processor.qkv_lora1.down.weight
#   LyCORIS        <layer>.hada_w1_a   .lokr_w1   .lokr_w2_b   .oft_blocks   .dora_scale   .lora_mid.weight
#   ComfyUI        diffusion_model.<layer>.diff   .diff_b
_PARTS = r"(?:(?P<part>down|up|mid)\.weight|(?P<alpha>alpha))\Z"
_OWN = r"hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|oft_blocks|dora_scale|rescale|diff_b|diff|[wb]_norm"
_SPELLINGS = [
    re.compile(r"(?P<layer>.+?)\.lora_(?P<ab>[AB])(?:(?:\.[^.]+)?\.weight)?\Z"),
    re.compile(r"(?P<layer>.+?)\.lora_[AB](?:\.[^.]+)?\.(?P<bias>bias)\Z"),
    re.compile(r"(?P<layer>.+?)\.lora_(?P<magnitude>magnitude_vector)(?:(?:\.[^.]+)?\.weight)?\Z"),
    re.compile(r"(?P<layer>.+?)\.lora_" + _PARTS),
    re.compile(r"(?P<layer>.+?)(?:\.processor)?\.(?P<leaf>to_[qkv]|to_out)_lora\." + _PARTS),
    re.compile(r"(?P<layer>.+?)(?:\.processor)\.(?P<leaf>(?:qkv|proj)_lora[12]?)\." + _PARTS),
    re.compile(r"(?P<layer>.+?)\.(?:lora|lora_linear_layer)\." + _PARTS),
    re.compile(rf"(?P<layer>.+?)\.(?P<own>{_OWN})\Z"),
    re.compile(r"(?P<layer>.+?)\.(?P<alpha>alpha)\Z"),
]
# Of these the tensors are not read as terms, so reading them as if they were would be silently wrong.
_OTHERS = {
    "lora_embedding_": "a LoRA of an embedding",
    "bundle_emb": "words learnt by textual inversion, bundled with a LoRA",
    "trainable_tokens": "retrained tokens",
    "modules_to_save": "modules saved whole beside a LoRA",
    "lora_E": "AdaLoRA",
    "boft_": "BOFT",
    "oft_R": "peft's OFT, which turns inputs",
    "oft_diag": "diagonal OFT",
    "vera_": "VeRA",
    "set_weight": "whole weights beside a LoRA",
    "reshape_weight": "a LoRA for layers of another shape",
    "ia3_": "IA3",
    ".a1.weight": "GLoRA",
    ".b1.weight": "GLoRA",
}
_OTHER = re.compile("|".join(map(re.escape, _OTHERS)))


@lru_cache(maxsize=1 << 17)
def split_key(key: str) -> tuple[str, str] | None:
    """(layer as written, part) of a key; None for any other key.

    Parts: `down`, `up`, `mid`, `alpha`, `bias`; `magnitude` (peft's DoRA) and `dora_scale` (LyCORIS'); LyCORIS' own
    words, `hada_w1_a`, `lokr_w2` and so on; `diff` of a weight, `diff_b` of a bias.
    """
    for spelling in _SPELLINGS:
        found = spelling.match(key)
        if found is None:
            continue
        groups = found.groupdict()
        part = {"A": "down", "B": "up"}.get(groups.get("ab") or "") or groups.get("part") or groups.get("own")
        part = part or ("magnitude" if groups.get("magnitude") else groups.get("bias") or "alpha")
        leaf = groups.get("leaf")
        return (f"{found['layer']}.{leaf}" if leaf else found["layer"]), part
    return None


@lru_cache(maxsize=1 << 17)
def _other(key: str) -> str | None:
    """What a key belongs to that is not read."""
    mark = _OTHER.search(key)
    return _OTHERS[mark.group()] if mark else None


def detect_format(keys: Iterable[str]) -> str:
    """`kohya`, `peft`, `diffusers`, `edit`, `shared`, `beside`, `uce`, `text_encoder`, or `sae`, by the keys of a file.

    Raises ArtifactError for keys of a kind that cannot be read, naming the kind.
    """
    keys = list(keys)
    if is_beside(keys):
        return "beside"
    for key in keys:
        kind = _other(key)
        if kind is not None:
            raise ArtifactError(
                f"tensor {key[:120]!r} belongs to {kind}, which is not read: convert it to a plain LoRA"
            )
    if "shared.down" in keys:
        return "shared"
    if is_edit(keys):
        return "edit"
    if any(split_key(key) and not key.endswith(".alpha") for key in keys):
        if any(key.startswith(("lora_", "lycoris_")) for key in keys):
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
