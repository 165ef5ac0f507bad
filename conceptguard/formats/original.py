"""Layer names of the original FLUX, Stable Diffusion 3 and Wan in diffusers' words.

Trainers that were written against the original code (kohya's scripts, musubi) and ComfyUI use these. Original layers
that compute several projections at once are several of diffusers' layers, each with some of the outputs.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Piece(NamedTuple):
    """A layer, and which outputs of the written one are its own, in which order.

    cut: "" all of them; "1/3" the second of three equal parts; "0+", "1+", "2+" a part as wide as the input, "3+" what
    comes after three such; "swap" the two halves, second first
    """

    layer: str
    cut: str = ""


_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")

# In flat names: underscores for dots. `{}` stands for the block's number.
_INSIDE = {
    # FLUX
    "double_blocks_{}_img_attn_qkv": [f"transformer_blocks_{{}}_attn_{one}" for one in _QKV],
    "double_blocks_{}_txt_attn_qkv": [f"transformer_blocks_{{}}_attn_{one}" for one in _ADDED],
    "double_blocks_{}_img_attn_proj": "transformer_blocks_{}_attn_to_out_0",
    "double_blocks_{}_txt_attn_proj": "transformer_blocks_{}_attn_to_add_out",
    "double_blocks_{}_img_mlp_0": "transformer_blocks_{}_ff_net_0_proj",
    "double_blocks_{}_img_mlp_2": "transformer_blocks_{}_ff_net_2",
    "double_blocks_{}_txt_mlp_0": "transformer_blocks_{}_ff_context_net_0_proj",
    "double_blocks_{}_txt_mlp_2": "transformer_blocks_{}_ff_context_net_2",
    "double_blocks_{}_img_mod_lin": "transformer_blocks_{}_norm1_linear",
    "double_blocks_{}_txt_mod_lin": "transformer_blocks_{}_norm1_context_linear",
    "single_blocks_{}_linear2": "single_transformer_blocks_{}_proj_out",
    "single_blocks_{}_modulation_lin": "single_transformer_blocks_{}_norm_linear",
    # FLUX as XLabs and USO write it
    "double_blocks_{}_qkv_lora1": [f"transformer_blocks_{{}}_attn_{one}" for one in _QKV],
    "double_blocks_{}_qkv_lora2": [f"transformer_blocks_{{}}_attn_{one}" for one in _ADDED],
    "double_blocks_{}_proj_lora1": "transformer_blocks_{}_attn_to_out_0",
    "double_blocks_{}_proj_lora2": "transformer_blocks_{}_attn_to_add_out",
    "single_blocks_{}_qkv_lora": [f"single_transformer_blocks_{{}}_attn_{one}" for one in _QKV],
    "single_blocks_{}_proj_lora": "single_transformer_blocks_{}_proj_out",
    # Stable Diffusion 3
    "joint_blocks_{}_x_block_attn_qkv": [f"transformer_blocks_{{}}_attn_{one}" for one in _QKV],
    "joint_blocks_{}_x_block_attn2_qkv": [f"transformer_blocks_{{}}_attn2_{one}" for one in _QKV],
    "joint_blocks_{}_context_block_attn_qkv": [f"transformer_blocks_{{}}_attn_{one}" for one in _ADDED],
    "joint_blocks_{}_x_block_attn_proj": "transformer_blocks_{}_attn_to_out_0",
    "joint_blocks_{}_x_block_attn2_proj": "transformer_blocks_{}_attn2_to_out_0",
    "joint_blocks_{}_context_block_attn_proj": "transformer_blocks_{}_attn_to_add_out",
    "joint_blocks_{}_x_block_mlp_fc1": "transformer_blocks_{}_ff_net_0_proj",
    "joint_blocks_{}_x_block_mlp_fc2": "transformer_blocks_{}_ff_net_2",
    "joint_blocks_{}_context_block_mlp_fc1": "transformer_blocks_{}_ff_context_net_0_proj",
    "joint_blocks_{}_context_block_mlp_fc2": "transformer_blocks_{}_ff_context_net_2",
    "joint_blocks_{}_x_block_adaLN_modulation_1": "transformer_blocks_{}_norm1_linear",
    # Wan
    **{f"blocks_{{}}_self_attn_{one}": f"blocks_{{}}_attn1_to_{one}" for one in "qkv"},
    **{f"blocks_{{}}_cross_attn_{one}": f"blocks_{{}}_attn2_to_{one}" for one in "qkv"},
    "blocks_{}_self_attn_o": "blocks_{}_attn1_to_out_0",
    "blocks_{}_cross_attn_o": "blocks_{}_attn2_to_out_0",
    "blocks_{}_cross_attn_k_img": "blocks_{}_attn2_add_k_proj",
    "blocks_{}_cross_attn_v_img": "blocks_{}_attn2_add_v_proj",
    "blocks_{}_ffn_0": "blocks_{}_ffn_net_0_proj",
    "blocks_{}_ffn_2": "blocks_{}_ffn_net_2",
}
_OUTSIDE = {
    # FLUX
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed_timestep_embedder_linear_1",
    "time_in_out_layer": "time_text_embed_timestep_embedder_linear_2",
    "vector_in_in_layer": "time_text_embed_text_embedder_linear_1",
    "vector_in_out_layer": "time_text_embed_text_embedder_linear_2",
    "guidance_in_in_layer": "time_text_embed_guidance_embedder_linear_1",
    "guidance_in_out_layer": "time_text_embed_guidance_embedder_linear_2",
    "final_layer_linear": "proj_out",
    # Stable Diffusion 3
    "x_embedder_proj": "pos_embed_proj",
    "t_embedder_mlp_0": "time_text_embed_timestep_embedder_linear_1",
    "t_embedder_mlp_2": "time_text_embed_timestep_embedder_linear_2",
    "y_embedder_mlp_0": "time_text_embed_text_embedder_linear_1",
    "y_embedder_mlp_2": "time_text_embed_text_embedder_linear_2",
    # Wan
    "time_embedding_0": "condition_embedder_time_embedder_linear_1",
    "time_embedding_2": "condition_embedder_time_embedder_linear_2",
    "text_embedding_0": "condition_embedder_text_embedder_linear_1",
    "text_embedding_2": "condition_embedder_text_embedder_linear_2",
    "time_projection_1": "condition_embedder_time_proj",
    "img_emb_proj_1": "condition_embedder_image_embedder_ff_net_0_proj",
    "img_emb_proj_3": "condition_embedder_image_embedder_ff_net_2",
    "head_head": "proj_out",
}
_NUMBERED = re.compile(r"((?:double_|single_|joint_)?blocks)_(\d+)_(.+)\Z")


def from_original(name: str, blocks: int) -> list[Piece]:
    """The flat diffusers layers that a flat original name means; empty when it is none. blocks: how many there are."""
    if name in _OUTSIDE:
        return [Piece(_OUTSIDE[name])]
    if name == "final_layer_adaLN_modulation_1":
        # Shift and scale here, scale and shift there.
        return [Piece("norm_out_linear", "swap")]
    found = _NUMBERED.match(name)
    if not found:
        return []
    kind, number, rest = found.groups()
    if (kind, rest) == ("single_blocks", "linear1"):
        block = f"single_transformer_blocks_{number}"
        parts = [*(f"attn_{one}" for one in _QKV), "proj_mlp"]
        return [Piece(f"{block}_{part}", f"{i}+") for i, part in enumerate(parts)]
    if (kind, rest) == ("joint_blocks", "context_block_adaLN_modulation_1"):
        # The text of the last block goes nowhere: its modulation has no gates, and is the other way round as above.
        last = int(number) == blocks - 1
        return [Piece(f"transformer_blocks_{number}_norm1_context_linear", "swap" if last else "")]
    theirs = _INSIDE.get(f"{kind}_{{}}_{rest}")
    if theirs is None:
        return []
    if isinstance(theirs, str):
        return [Piece(theirs.format(number))]
    return [Piece(one.format(number), f"{i}/{len(theirs)}") for i, one in enumerate(theirs)]
