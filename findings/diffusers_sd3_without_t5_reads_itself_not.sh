#!/usr/bin/env bash
# diffusers 0.42.1 (torch 2.13.0, transformers 5.23.0): a StableDiffusion3Pipeline without T5 cannot read what it wrote.
#
# `text_encoder_3=None, tokenizer_3=None` is the documented way to do without the largest encoder. `save_pretrained`
# writes both as [null, null] into model_index.json, which is how diffusers says that a part is left out. One would
# expect that `from_pretrained` then needs to be told nothing: of StableDiffusionPipeline's safety checker, said so in
# the same way, it does not. Of these two it says that the pipeline expected them, and stops.
#
# Seen:
#   written: [None, None] [None, None]
#   read with nothing said: ValueError, text_encoder_3 is missing
#   read with both said again: T5 is left out
# Whoever loads a stranger's folder must read model_index.json, and name what is null in it.
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

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"]
json.dump({word: i for i, word in enumerate(words)}, open("vocab.json", "w"))
open("merges.txt", "w").write("#version: 0.2\n")
tokenizer = CLIPTokenizer("vocab.json", "merges.txt")
sizes = dict(vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
clip = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, projection_dim=32, bos_token_id=0, eos_token_id=1))
transformer = SD3Transformer2DModel(
    sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
    caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64, out_channels=4,
)
pipe = StableDiffusion3Pipeline(
    transformer=transformer, vae=AutoencoderKL(latent_channels=4), scheduler=FlowMatchEulerDiscreteScheduler(),
    text_encoder=clip, tokenizer=tokenizer, text_encoder_2=clip, tokenizer_2=tokenizer,
    text_encoder_3=None, tokenizer_3=None,
)
pipe.save_pretrained("saved")
index = json.load(open("saved/model_index.json"))
print("written:", index["text_encoder_3"], index["tokenizer_3"])
assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
try:
    StableDiffusion3Pipeline.from_pretrained("saved")
except ValueError as error:
    print("read with nothing said: ValueError,", [n for n in ("text_encoder_3", "tokenizer_3") if n in str(error)])
    assert "text_encoder_3" in str(error), error
else:
    raise SystemExit("it is read")
again = StableDiffusion3Pipeline.from_pretrained("saved", text_encoder_3=None, tokenizer_3=None)
assert again.text_encoder_3 is None
print("read with both said again: T5 is left out")
PYTHON
