"""Language models with random weights, and transformers' own way to ban words: what benchmarks time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, NoBadWordsLogitsProcessor, PreTrainedTokenizerFast


def byte_level_bpe(texts: Sequence[str], size: int) -> Any:
    """A byte-level BPE tokenizer, as of GPT-2 and Llama 3, of ``size`` tokens trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def llama(tok: Any, size: str = "tiny") -> Any:
    """A Llama with random weights and a tokenizer's vocabulary: ``tiny``, or ``1b`` in bfloat16."""
    # 1b has the shape of Llama 3.2 1B, which has a larger vocabulary.
    shape = (2048, 8192, 16, 32) if size == "1b" else (8, 8, 1, 1)
    width, inner, layers, heads = shape
    config = LlamaConfig(
        vocab_size=len(tok), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=min(heads, 8), tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if size == "1b" else torch.float32)
    try:
        return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def no_bad_words(tok: Any, ids: list[list[int]]) -> Any:
    """transformers' own processor that keeps phrases, given as token ids, from being said."""
    return NoBadWordsLogitsProcessor(ids, eos_token_id=tok.eos_token_id)
