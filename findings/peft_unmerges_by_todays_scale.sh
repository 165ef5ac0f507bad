#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0, transformers 5.23.0 (CPU, Python 3.11).
#
# Guess: unmerge() takes out of a weight what merge() put in, so that merge, set_scale, unmerge gives the base back; and
# whoever watches a weight's version counter sees that something was merged.
# Behaviour: unmerge() computes what to take out from the scale of now. After merge() at scale 1, set_scale(0.5) and
# unmerge(), half of the adapter stays in the base for good, without a word. And merge() writes through .data: the
# weight's _version is what it was before.
#
# Output seen:
#   after merge: off by 0.4169, version 0 -> 0
#   after set_scale(0.5), unmerge: off by 0.2084
#   after merge, unmerge at one scale: off by 0.0000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy
"$folder/venv/bin/python" - <<'PY'
import copy

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

torch.manual_seed(0)
plain = nn.Sequential(nn.Linear(8, 8, bias=False))
base = plain[0].weight.detach().clone()
config = LoraConfig(r=2, lora_alpha=2, target_modules=["0"], init_lora_weights=False)
model = inject_adapter_in_model(config, plain)


def off(layer):
    return float((layer.base_layer.weight - base).abs().max())


layer = copy.deepcopy(model)[0]
before = layer.base_layer.weight._version
layer.merge()
merged, after = off(layer), layer.base_layer.weight._version
print(f"after merge: off by {merged:.4f}, version {before} -> {after}")
layer.set_scale("default", 0.5)
layer.unmerge()
left = off(layer)
print(f"after set_scale(0.5), unmerge: off by {left:.4f}")

layer = copy.deepcopy(model)[0]
layer.merge()
layer.unmerge()
print(f"after merge, unmerge at one scale: off by {off(layer):.4f}")
assert merged > 0.1 and before == after, "merge() counts as a change now"
assert abs(left - merged / 2) < 1e-5 and off(layer) < 1e-6, "unmerge() takes out what was merged now"
PY
