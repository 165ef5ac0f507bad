#!/usr/bin/env bash
# diffusers 0.42.1 (torch 2.13.0): under pyramid attention broadcast the unconditional call is given the prompt's attention.
#
# Pipelines such as Wan's call their denoiser twice a step, once a branch, each inside `cache_context("cond")` or
# `cache_context("uncond")`. One would expect that every cache keeps the two apart, as first block cache does. Pyramid
# attention broadcast does not: it counts calls, whoever makes them, so the second call of a step is answered with what the
# first one's cross-attention gave. The prediction that guidance takes a picture away from has then read the prompt itself.
#
# Seen (a random WanTransformer3DModel of two layers, prompt and negative prompt of random embeddings):
#   no cache:                       cross-attention of both branches equal: False
#   pyramid attention broadcast:    cross-attention of both branches equal: True
#                                   unconditional prediction off by 0.30, the largest number in it is 2.36
# Whoever compares the branches of a model with such a cache compares a prompt with itself in part.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import PyramidAttentionBroadcastConfig, WanTransformer3DModel

torch.manual_seed(0)
model = WanTransformer3DModel(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
    freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
).eval()
latents = torch.randn(1, 4, 1, 8, 8)
prompt, negative = torch.randn(1, 5, 16), torch.randn(1, 5, 16)
attended = []
model.blocks[0].attn2.register_forward_hook(lambda module, args, output: attended.append(output))


@torch.no_grad()
def predict(embeds, branch):
    with model.cache_context(branch):
        return model(hidden_states=latents, timestep=torch.tensor([900]), encoder_hidden_states=embeds, return_dict=False)[0]


def step():
    attended.clear()
    predict(prompt, "cond")
    unconditional = predict(negative, "uncond")
    return unconditional, torch.equal(*attended)


plain, same = step()
print("no cache: cross-attention of both branches equal:", same)
model.enable_cache(PyramidAttentionBroadcastConfig(
    cross_attention_block_skip_range=4, cross_attention_timestep_skip_range=(100, 1000),
    cross_attention_block_identifiers=("blocks",), current_timestep_callback=lambda: 900,
))
cached, shared = step()
off = float((cached - plain).abs().max())
print("pyramid attention broadcast: cross-attention of both branches equal:", shared)
print(f"unconditional prediction off by {off:.2f}, the largest number in it is {float(plain.abs().max()):.2f}")
assert not same and shared and off > 0.1
PYTHON
