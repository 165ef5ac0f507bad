"""A language model large enough that an engine's own work is most of a token's time: random weights, real tokens."""

from __future__ import annotations

from pathlib import Path

from conceptguard.registry import default_registry

LARGER = "larger"  # its name on command lines


def folder_of(model: str, here: Path) -> str:
    """The folder of an embedded model, of one in a folder, or of ``larger``, which is made in ``here``."""
    if model == LARGER:
        return _made(here / LARGER)
    return model if Path(model).is_dir() else str(default_registry().model(model))


def _made(folder: Path) -> str:
    """A Llama of 208 million parameters in fp32, always the same one, and the tokenizer of ``authors-lm``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from conceptguard import load_model

    small, tokenizer = load_model("authors-lm")
    torch.manual_seed(0)
    same = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=16, num_attention_heads=16,
        max_position_embeddings=512, **{name: getattr(small.config, name) for name in same},
    ))  # fmt: skip
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return str(folder)
