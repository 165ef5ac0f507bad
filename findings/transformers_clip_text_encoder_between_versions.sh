#!/usr/bin/env bash
# transformers 5.23.0 and 4.57.1 (torch 2.13.0): a text encoder saved by the one is another model in the other.
#
# Weights of CLIPTextModel have been named `text_model.…` since Stable Diffusion 1, in every checkpoint and loader. One
# would expect that version 5 reads and writes those names. It reads both, and writes none of them: `save_pretrained`
# leaves the prefix out. CLIPTextModelWithProjection, saved by the same version, has it.
# Version 4 takes such a folder without an error: it says in a warning that weights are newly initialised, and what
# comes back has random layers. A pipeline with it draws noise.
#
# Seen:
#   CLIPTextModel writes embeddings.position_embedding.weight - with projection: text_model.embeddings.position_embedding.weight
#   loaded as it was saved: 0 of 20 tensors are the same; with the prefix: 20
# Whoever saves a text encoder for others must put the prefix back.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 4.57.1 5.23.0; do
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q torch==2.13.0 numpy "transformers==$version"
done
cd "$folder"
cat > save.py <<'PYTHON'
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

torch.manual_seed(0)
sizes = dict(vocab_size=49408, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
config = CLIPTextConfig(**sizes, projection_dim=16)
model = CLIPTextModel(config)
for weight in model.parameters():
    torch.nn.init.normal_(weight)
model.save_pretrained("plain")
CLIPTextModelWithProjection(config).save_pretrained("projected")
plain, projected = (load_file(f"{name}/model.safetensors") for name in ("plain", "projected"))
print("CLIPTextModel writes", min(plain), "- with projection:", min(projected))
assert not any(name.startswith("text_model.") for name in plain)
assert any(name.startswith("text_model.") for name in projected)
CLIPTextModel.from_pretrained("plain").save_pretrained("mended")
save_file({f"text_model.{name}": tensor for name, tensor in plain.items()}, "mended/model.safetensors", {"format": "pt"})
again = CLIPTextModel.from_pretrained("mended").state_dict()
assert all(torch.equal(again[name], plain[name]) for name in plain)  # 5 reads the old names as well
PYTHON
cat > load.py <<'PYTHON'
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel

saved = load_file("plain/model.safetensors")


def same(folder):
    loaded = CLIPTextModel.from_pretrained(folder).state_dict()
    return sum(torch.equal(loaded[f"text_model.{name}"], tensor) for name, tensor in saved.items())


plain, mended = same("plain"), same("mended")
print(f"loaded as it was saved: {plain} of {len(saved)} tensors are the same; with the prefix: {mended}")
assert (plain, mended) == (0, len(saved))
PYTHON
"$folder/5.23.0/bin/python" save.py 2> /dev/null
"$folder/4.57.1/bin/python" load.py 2> /dev/null
