"""A Stable Diffusion pipeline as one checkpoint, under the names that the original code gave its layers."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_WHOLE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_VAE = {
    r"down_blocks\.(\d+)\.resnets": r"down.\1.block", r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
    r"mid_block\.attentions\.0": "mid.attn_1", r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out",
    "group_norm": "norm", r"to_([qkv])\b": r"\1", r"to_out\.0": "proj_out",
}  # fmt: skip


def checkpoint(pipe: Any) -> dict[str, Tensor]:
    """All weights, ready to be saved. The UNet has as many attentions as resnets in each block, or none."""
    layers = pipe.unet.config.layers_per_block
    found = {f"model.diffusion_model.{_unet(n, layers)}": t for n, t in pipe.unet.state_dict().items()}
    for name, tensor in pipe.vae.state_dict().items():
        own = _vae(name, len(pipe.vae.config.block_out_channels))
        square = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", own)
        found[f"first_stage_model.{own}"] = tensor[:, :, None, None] if square else tensor
    for name, tensor in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _unet(name: str, layers: int) -> str:
    whole, _, kind = name.rpartition(".")
    if whole in _WHOLE:
        return f"{_WHOLE[whole]}.{kind}"
    if middle := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        return f"middle_block.{_MIDDLE[f'{middle[1]}.{middle[2]}']}.{_inside(middle[3])}"
    side, block, part, at, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    step, i, j = layers + 1, int(block), int(at)
    if part == "downsamplers":
        return f"input_blocks.{step * (i + 1)}.0.op.{kind}"
    if part == "upsamplers":
        return f"output_blocks.{step * i + layers}.{2 if i == 0 else 1}.conv.{kind}"
    number = step * i + j + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(part == 'attentions')}.{_inside(rest)}"


def _inside(rest: str) -> str:
    first, _, last = rest.partition(".")
    return f"{_RESNET.get(first, first)}.{last}"


def _vae(name: str, blocks: int) -> str:
    for pattern, theirs in _VAE.items():
        name = re.sub(pattern, theirs, name)
    # The original counts the decoder's blocks from the picture inwards.
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
