"""The parts of emoji-flow, in Stable Diffusion 3's own shapes, only narrower.

What is fixed comes from code that reads such models. ComfyUI takes a transformer to have as many heads and blocks as it
has times 64 channels, pads what its CLIPs say to 4,096 channels, and has SD 3's shift and scale of latents built in.
There is no T5: its vocabulary alone would be wider than all else here.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..emoji_sd import models as emoji_sd
from ..emoji_sd.models import BOS, EOS, HIDDEN, SIZE, VOCAB

CHANNELS = 16  # of latents, [16, 16, 16]: f = 8
DEPTH = 4  # blocks, and heads of 64 channels each
WIDTH = 64 * DEPTH
L_WIDTH, G_WIDTH = HIDDEN, 32  # of the two text encoders
TEXT = L_WIDTH + G_WIDTH  # channels of an embedding that say something, and width of the pooled one
JOINT = 4096  # channels of an embedding
SHIFT = 3.0  # of noise levels, as in SD 3
SCALING, OFFSET = 1.5305, 0.0609  # of latents, likewise
PATCH = 2
GRID = 2.0**-8  # of the numbers that stand for words, which then take less than half of the room in a wheel


def make_vae() -> AutoencoderKL:
    """1.1 M parameters: emoji-sd's, with 16 latent channels and, as in SD 3, no convolutions around them."""
    return emoji_sd.make_vae(
        CHANNELS, scaling_factor=SCALING, shift_factor=OFFSET, use_quant_conv=False, use_post_quant_conv=False
    )


def make_transformer(joint: int = JOINT) -> SD3Transformer2DModel:
    """9.1 M parameters where ``joint`` is ``TEXT``, and 1.0 M zeros besides where it is ``JOINT``.

    Every block begins as the identity and the prediction as zero (adaLN-Zero, Peebles & Xie 2023).
    """
    model = SD3Transformer2DModel(
        sample_size=SIZE // 8,
        patch_size=PATCH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=DEPTH,
        num_attention_heads=DEPTH,
        attention_head_dim=64,
        joint_attention_dim=joint,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=TEXT,
        pos_embed_max_size=SIZE // 8,  # twice as many patches as 128 px have, for pictures twice as large
        qk_norm="rms_norm",  # as in SD 3.5: without it, attention under Muon drifts in bf16
    )
    modulated = [m.linear for b in model.transformer_blocks for m in (b.norm1, b.norm1_context)]
    for linear in [*modulated, model.norm_out.linear, model.proj_out]:
        nn.init.zeros_(linear.weight), nn.init.zeros_(linear.bias)
    return model


def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ``make_transformer(TEXT)`` as those of ``make_transformer()``: what no encoder fills is not heard."""
    narrow = state["context_embedder.weight"]
    wide = narrow.new_zeros(len(narrow), JOINT)
    wide[:, :TEXT] = narrow
    return {**state, "context_embedder.weight": wide}


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)


def _clip(width: int, layers: int, heads: int, act: str) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=77,
            hidden_act=act,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    )


def make_clip_l() -> CLIPTextModelWithProjection:
    """7.2 M parameters, random ones."""
    return _clip(L_WIDTH, 4, 4, "quick_gelu")


def make_clip_g() -> CLIPTextModelWithProjection:
    """1.6 M parameters, random ones."""
    return _clip(G_WIDTH, 3, 2, "gelu")


@torch.no_grad()
def clip_l_from(text: CLIPTextModel) -> CLIPTextModelWithProjection:
    """emoji-sd's text encoder as the first of two.

    SD 3 reads the states before the last layer, and the last layer's at the end token as pooled: a fourth layer that
    adds nothing yet stands behind emoji-sd's three, so that both are what those were taught to say. The pooled vector
    is not projected, as ComfyUI has it: the projection is the identity. Words are rounded to ``GRID`` before anything
    is trained on them, and no more trained themselves.
    """
    found = make_clip_l()
    theirs = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in text.state_dict().items()}
    missing, unexpected = found.load_state_dict(theirs, strict=False)
    unknown = [name for name in unexpected if not name.endswith("position_ids")]
    unknown += [name for name in missing if ".layers.3." not in name and name != "text_projection.weight"]
    if unknown:
        raise ValueError(f"not emoji-sd's text encoder: {unknown[:3]}")
    words = found.get_input_embeddings().weight
    words.copy_((words / GRID).round() * GRID)
    last = found.text_model.encoder.layers[-1]
    for linear in (last.self_attn.out_proj, last.mlp.fc2):
        nn.init.zeros_(linear.weight), nn.init.zeros_(linear.bias)
    nn.init.eye_(found.text_projection.weight)
    return found


@torch.no_grad()
def clip_g_from(text: CLIPTextModel) -> CLIPTextModelWithProjection:
    """The second: random layers over the 32 directions in which emoji-sd's words differ most."""
    found = make_clip_g()
    words = text.get_input_embeddings().weight.float()
    centred = words - words.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -G_WIDTH:]
    reduced = centred @ directions
    found.get_input_embeddings().weight.copy_((reduced * (0.02 / reduced.std() / GRID)).round() * GRID)
    return found
