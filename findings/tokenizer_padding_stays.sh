#!/usr/bin/env bash
# transformers 5.23.0 (tokenizers as it brings them): one call of a fast tokenizer pads and cuts what others encode later.
#
# `tokenizer(texts, padding=..., truncation=...)` reads like options of that call. They are set on the shared
# `backend_tokenizer` and stay there until the next call of the wrapper: `encode_batch` of the backend, which is how one
# encodes fast, then gives padded or shortened ids, and `save_pretrained` writes the padding into tokenizer.json.
#
# Seen, ids of "a" and "a red apple" by tokenizer.backend_tokenizer.encode_batch:
#   fresh:                                          [[2], [2, 3, 4]]
#   after tokenizer(..., padding="max_length", 6):  [[2, 0, 0, 0, 0, 0], [2, 3, 4, 0, 0, 0]]
#   after tokenizer(..., truncation=True, 2):       [[2], [2, 3]]
#   saved after the first of these:                 tokenizer.json has the strategy {"Fixed": 6}
# Who uses the backend must set padding and truncation to none for itself, and give them back.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

words = {"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "apple": 4}
backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
texts = ["a", "a red apple"]


def encoded():
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]


fresh = encoded()
tokenizer(texts, padding="max_length", max_length=6)
padded = encoded()
tokenizer.save_pretrained("saved")
saved = json.load(open("saved/tokenizer.json"))["padding"]["strategy"]
tokenizer(texts, truncation=True, max_length=2)
cut = encoded()
print("fresh:", fresh, "padded:", padded, "cut:", cut, "saved:", saved, sep="\n")
assert fresh == [[2], [2, 3, 4]] and padded == [[2, 0, 0, 0, 0, 0], [2, 3, 4, 0, 0, 0]] and cut == [[2], [2, 3]]
assert saved == {"Fixed": 6}
PYTHON
