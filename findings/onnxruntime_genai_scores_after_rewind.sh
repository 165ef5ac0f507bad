#!/usr/bin/env bash
# onnxruntime-genai 0.18.0: after Generator.rewind_to(n), get_logits() first says a token of its own choice.
#
# rewind_to(n) reads like "as it was after n tokens", and get_logits() like a question. But the scores for token n are
# gone with the rewound state, and get_logits() makes up for that by choosing a token (by the model's own scores, which
# no set_logits has changed), appending it, and giving the scores after it: n + 1 tokens are there where n were asked
# for. Who takes text back to say it another way gets the first token unchanged, and closes the wrong one.
#
# Seen, a random Llama of 2 layers, prompt of 4 tokens, 5 said, rewound to 4:
#   token_count() before get_logits: 4    after: 5    scores are those after the prompt and the token said first
# Rewinding one further and giving the last token again by append_tokens gives the scores of token n, and n tokens.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx-ir==1.1.0 onnx==1.23.2 \
    transformers==5.23.0 torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    initializer_range=0.4,
)
LlamaForCausalLM(config).save_pretrained("model")
words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w3"))
PreTrainedTokenizerFast(
    tokenizer_object=words, unk_token="w3", bos_token="w1", eos_token="w2", pad_token="w0"
).save_pretrained("model")
PYTHON
"$folder/venv/bin/python" -m onnxruntime_genai.models.builder -m model -o onnx -p fp32 -e cpu -c cache > build.log 2>&1 \
    || { tail -5 build.log; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime_genai as og

model, prompt = og.Model("onnx"), [1, 10, 20, 30]


def generator(ids):
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=32, batch_size=1)
    made = og.Generator(model, params)
    made.append_tokens(np.array([ids], dtype=np.int32))
    return made


gen, said = generator(prompt), []
first = gen.get_logits().copy()
for _ in range(5):
    gen.generate_next_token()
    said.append(int(gen.get_next_tokens()[0]))
gen.rewind_to(len(prompt))
before, scores, after = gen.token_count(), gen.get_logits().copy(), gen.token_count()
second = generator([*prompt, said[0]]).get_logits()
print("token_count before and after get_logits:", before, after)
print("scores differ from those after the prompt by", float(abs(scores - first).max()))
print("and from those after one token more by", float(abs(scores - second).max()))
assert (before, after) == (4, 5)
assert abs(scores - first).max() > 1e-2 and abs(scores - second).max() < 1e-3

gen.rewind_to(len(prompt) - 1)
gen.append_tokens(np.array([prompt[-1:]], dtype=np.int32))
again = gen.get_logits()
print("one further back, and the last one given again:", gen.token_count(), float(abs(again - first).max()))
assert gen.token_count() == 4 and abs(again - first).max() < 1e-3
PYTHON
