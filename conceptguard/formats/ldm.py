"""Layer names of the original Stable Diffusion UNet (kohya's SDXL files use them) in diffusers' words."""

from __future__ import annotations

import re

_INNER = [
    ("in_layers_2", "conv1"),
    ("out_layers_3", "conv2"),
    ("emb_layers_1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"),
]
_WHOLE = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_BLOCK = re.compile(r"(input_blocks|output_blocks)_(\d+)_(\d+)_(.+)\Z")
_MIDDLE = re.compile(r"middle_block_([012])_(.+)\Z")


def from_ldm(name: str, layers_per_block: int) -> list[str]:
    """Underscored diffusers names that an underscored LDM name may mean; empty when it is not an LDM name."""
    if name in _WHOLE:
        return [_WHOLE[name]]
    middle = _MIDDLE.match(name)
    if middle:
        kind = ["resnets_0", "attentions_0", "resnets_1"][int(middle[1])]
        return [f"mid_block_{kind}_{_inside(middle[2])}"]
    block = _BLOCK.match(name)
    if not block:
        return []
    number, part, rest = int(block[2]), int(block[3]), block[4]
    step = layers_per_block + 1
    if block[1] == "input_blocks":
        where, layer = divmod(number - 1, step)
        if rest == "op":
            return [f"down_blocks_{where}_downsamplers_0_conv"]
        return [f"down_blocks_{where}_{['resnets', 'attentions'][min(part, 1)]}_{layer}_{_inside(rest)}"]
    where, layer = divmod(number, step)
    if rest == "conv":
        return [f"up_blocks_{where}_upsamplers_0_conv"]
    return [f"up_blocks_{where}_{['resnets', 'attentions'][min(part, 1)]}_{layer}_{_inside(rest)}"]


def _inside(rest: str) -> str:
    for theirs, ours in _INNER:
        if rest == theirs:
            return ours
    return rest
