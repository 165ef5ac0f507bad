#!/usr/bin/env bash
# diffusers 0.42.1: a model whose weights group offloading keeps in files draws rightly, and saves whatever memory held.
#
# One would expect `state_dict()` and `save_pretrained()` of an offloaded model to give its weights, as they do where these are
# offloaded to memory: they are there, on the CPU, whole. With `offload_to_disk_path` what lies in the modules between calls is
# memory that nobody wrote to, of the right shapes and dtype. Nothing raises, and the next call reads the files and is right: the
# model works while what was saved of it, a hash of its weights, or an adapter that is merged or fused meanwhile, is wrong.
#
# Seen (a UNet of random weights, onload and offload device both the CPU, leaf_level; 208 tensors):
#   memory: same output True, state_dict 208 of 208, saved and loaded 208 of 208
#   files:  same output True, state_dict 0 of 208, saved and loaded 0 of 208
# (a small tensor may be the same by chance: fewer than 20 count as none.)
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import UNet2DConditionModel
from diffusers.hooks import apply_group_offloading

SHAPE = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8,
    "attention_head_dim": 4, "sample_size": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def fresh():
    torch.manual_seed(0)
    return UNet2DConditionModel(**SHAPE).eval()


def equal(weights):
    return sum(torch.equal(own, weights[name]) for name, own in before.items())


torch.manual_seed(1)
latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 8)
plain = fresh()
before = {name: own.clone() for name, own in plain.state_dict().items()}
with torch.no_grad():
    wanted = plain(latents, 5, text).sample
cpu, found = torch.device("cpu"), {}
for kind, more in {"memory": {}, "files": {"offload_to_disk_path": "kept"}}.items():
    model = fresh()
    apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level", **more)
    with torch.no_grad():
        same = torch.equal(model(latents, 5, text).sample, wanted)
    model.save_pretrained(kind)
    told = equal(model.state_dict())
    saved = equal(UNet2DConditionModel.from_pretrained(kind).state_dict())
    found[kind] = same, told, saved
    print(f"{kind}: same output {same}, state_dict {told} of {len(before)}, saved and loaded {saved} of {len(before)}")
assert found["memory"] == (True, len(before), len(before)), found
assert found["files"][0] and max(found["files"][1:]) < 20, found
PYTHON
