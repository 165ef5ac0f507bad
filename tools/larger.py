"""A language model large enough that an engine's own work is most of a token's time: random weights, real tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

LARGER = "larger"  # its name on command lines


@cache
def parts() -> tuple[Any, Any]:
    """A Llama of 208 million parameters in fp32, always the same one, and the tokenizer of ``authors-lm``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from conceptguard import load_model

    small, tokenizer = load_model("authors-lm")
    torch.manual_seed(0)
    same = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=16, num_attention_heads=16,
        max_position_embeddings=512, **{name: getattr(small.config, name) for name in same},
    )), tokenizer  # fmt: skip


def saved(folder: Path) -> str:
    """Both, as a folder of transformers."""
    for part in parts():
        part.save_pretrained(folder)
    return str(folder)
