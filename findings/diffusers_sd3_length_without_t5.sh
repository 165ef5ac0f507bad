#!/usr/bin/env bash
# diffusers 0.42.1 (torch 2.13.0, transformers 5.23.0): without T5, StableDiffusion3Pipeline's `max_sequence_length` still
# decides what is drawn.
#
# It is the length of T5's text. Where T5 is left out (`text_encoder_3=None`) one would expect that it says nothing. But in
# T5's place stand as many rows of zeros, 256 by default, and the transformer's attention has no mask: after a layer's bias
# they are keys and values like any others, and take their share of every softmax. The same words, seed and weights give
# another prediction for every length, and most of the text that a small model reads is zeros, which cost as much as words.
#
# Seen (a tiny transformer with random weights, one text):
#   tokens of text: 77 + 1, 77 + 77, 77 + 256
#   all behind the first 77 are zeros: True
#   predictions differ by more than a hundredth of their size, from length to length: True
# Another program that leaves the zeros out (ComfyUI does) draws another picture from the same files and seed.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 diffusers==0.42.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2> /dev/null
import json

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

torch.manual_seed(0)
words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"]
json.dump({word: i for i, word in enumerate(words)}, open("vocab.json", "w"))
open("merges.txt", "w").write("#version: 0.2\n")
tokenizer = CLIPTokenizer("vocab.json", "merges.txt", model_max_length=77)
sizes = dict(vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
clip = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, projection_dim=32, bos_token_id=0, eos_token_id=1)).eval()
transformer = SD3Transformer2DModel(
    sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
    caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64, out_channels=4,
).eval()  # fmt: skip
pipe = StableDiffusion3Pipeline(
    transformer=transformer, vae=AutoencoderKL(latent_channels=4), scheduler=FlowMatchEulerDiscreteScheduler(),
    text_encoder=clip, tokenizer=tokenizer, text_encoder_2=clip, tokenizer_2=tokenizer,
    text_encoder_3=None, tokenizer_3=None,
)  # fmt: skip
noise, said, lengths, silent = torch.randn(1, 4, 8, 8), [], (1, 77, 256), True
with torch.no_grad():
    for length in lengths:
        states, _, pooled, _ = pipe.encode_prompt(
            "a b", None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
        assert states.shape[1] == 77 + length
        silent &= not bool(states[:, 77:].any())
        said.append(transformer(noise, states, pooled, torch.tensor([500.0])).sample)
print("tokens of text:", ", ".join(f"77 + {length}" for length in lengths))
print("all behind the first 77 are zeros:", silent)
apart = all(float((a - b).norm() / a.norm()) > 0.01 for a, b in zip(said, said[1:]))
print("predictions differ by more than a hundredth of their size, from length to length:", apart)
assert silent and apart
PYTHON
