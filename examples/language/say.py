"""A language model under a policy: python say.py MODEL PROMPT [--policy FILE] [--tokens N]."""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import conceptguard


def main() -> None:
    """Says one text, and the receipt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder in transformers' format, or a Hub id")
    parser.add_argument("prompt")
    parser.add_argument("--policy", default=str(Path(__file__).with_name("policy.yaml")))
    parser.add_argument("--tokens", type=int, default=60)
    given = parser.parse_args()
    encodes = AutoConfig.from_pretrained(given.model).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    model, tokenizer = kind.from_pretrained(given.model), AutoTokenizer.from_pretrained(given.model)
    inputs = tokenizer(given.prompt, return_tensors="pt", return_token_type_ids=False)
    with conceptguard.attach((model, tokenizer), given.policy) as guard:
        out = model.generate(**inputs, max_new_tokens=given.tokens, do_sample=False)
        print(tokenizer.decode(out[0], skip_special_tokens=True))
        print(guard.receipt)


if __name__ == "__main__":
    main()
