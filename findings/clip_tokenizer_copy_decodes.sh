#!/usr/bin/env bash
# transformers 5.23.0: a copied CLIPTokenizer encodes as before, and decodes with "</w>" in the text.
#
# One would expect that a tokenizer copied by copy.deepcopy, or pickled on its way to another process, is the same one. CLIP's
# turns "</w>" into spaces in a function that it puts over the `decode` of its backend object; a copy has a backend of its own
# that knows nothing of that. Nothing raises, and ids of texts are right. So is what is loaded from the files that it saves.
#
# Seen (a vocabulary of a few letters and "photo"):
#   own:        'a photo'
#   deepcopy:   'a</w>photo</w>'
#   pickle:     'a</w>photo</w>'
#   saved:      'a photo'
# diffusers' unload_textual_inversion rebuilds the backend and has the same effect on the pipeline's own tokenizer. Whoever
# writes down what a search found, with a copy, or after learnt words were unloaded, writes another text than was found.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import pickle

from transformers import CLIPTokenizer

letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
pieces = [*letters, *(f"{letter}</w>" for letter in letters), "ph", "pho", "phot", "photo</w>"]
vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
merges = [("p", "h"), ("ph", "o"), ("pho", "t"), ("phot", "o</w>")]
own = CLIPTokenizer(vocab=vocabulary, merges=merges)
own.save_pretrained("saved")
ids = own("a photo", add_special_tokens=False).input_ids
kinds = {
    "own": own, "deepcopy": copy.deepcopy(own), "pickle": pickle.loads(pickle.dumps(own)),
    "saved": CLIPTokenizer.from_pretrained("saved"),
}
for name, tokenizer in kinds.items():
    assert tokenizer("a photo", add_special_tokens=False).input_ids == ids
    print(f"{name + ':':11} {tokenizer.decode(ids)!r}")
said = {name: tokenizer.decode(ids).strip() for name, tokenizer in kinds.items()}
assert said == {"own": "a photo", "deepcopy": "a</w>photo</w>", "pickle": "a</w>photo</w>", "saved": "a photo"}
PYTHON
