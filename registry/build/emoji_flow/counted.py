"""Attention to tokens that stand for several.

Without a T5, diffusers puts zeros in the place of its tokens, 256 of them by default, and ComfyUI puts nothing. A model
trained with the ones is another with the others: so many equal tokens take their share of every softmax. Equal tokens
stay equal, so that one token whose scores are raised by log(n) is n of them exactly, and n = 0 is none. Training has
one, and an n for each picture. The padding behind a caption is nearly equal, and is counted likewise where it is cut.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..emoji_sd.models import EOS

MOST = 512
WHOLE = 77


def zeros(n: int, gen: torch.Generator) -> Tensor:
    """How many zeros each of ``n`` pictures has, [n]: none, as in ComfyUI; 256, as in diffusers; or another number."""
    kind = torch.rand(n, generator=gen, device=gen.device)
    some = torch.exp(torch.rand(n, generator=gen, device=gen.device) * math.log(MOST)).round()
    return torch.where(kind < 0.4, 0.0, torch.where(kind < 0.8, 256.0, some))


def counts(ids: Tensor, gen: torch.Generator) -> Tensor:
    """For how many each token of a context stands, [n, length + 1]: token ids [n, length], then a token of zeros.

    The padding stands for as much as there were in all of CLIP's 77 positions.
    """
    padding = (ids == EOS).cumsum(1) > 1
    there = padding.sum(1, keepdim=True)
    padded = (there + WHOLE - ids.shape[1]) / there.clamp(min=1)
    return torch.cat([torch.where(padding, padded, 1.0), zeros(len(ids), gen)[:, None]], 1)


class CountedAttention:
    """JointAttnProcessor2_0 for a context whose tokens stand for ``self.counts`` [rows, tokens] equal ones.

    Plain matmuls: at these sizes the fused attention's backward pass is slower on a CPU.
    """

    def __init__(self) -> None:
        self.counts = torch.ones(1, 1)

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_, **__
    ) -> tuple[Tensor, Tensor]:
        x, context = hidden_states, encoder_hidden_states
        heads = lambda t: t.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        q = torch.cat([attn.norm_q(heads(attn.to_q(x))), attn.norm_added_q(heads(attn.add_q_proj(context)))], 2)
        k = torch.cat([attn.norm_k(heads(attn.to_k(x))), attn.norm_added_k(heads(attn.add_k_proj(context)))], 2)
        v = torch.cat([heads(attn.to_v(x)), heads(attn.add_v_proj(context))], 2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        # -inf for none: nothing attends to such a token, and what becomes of it is not read.
        raised = F.pad(torch.log(self.counts), (x.shape[1], 0)).to(scores)[:, None, None]
        out = ((scores + raised).softmax(-1).to(v) @ v).transpose(1, 2).flatten(2)
        seen, said = out[:, : x.shape[1]], out[:, x.shape[1] :]
        return attn.to_out[0](seen), said if attn.context_pre_only else attn.to_add_out(said)
