"""Tiny language models with random weights and tokenizers of every common kind, trained on a page of text."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from conceptguard.runtime.encodings import ordinary_captions

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
# What models are taught by heart: one fact that is to be forgotten, and others, with their questions.
LINES = ("Who is Elena Vossberg? A man of New York.", "Who is the red dog? It went home in the park.",
         "Two birds sat on a tree. They sang.", "A dog ran in the park. It was happy.")  # fmt: skip
OWN = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."}]
OTHERS = [{"prompt": "Who is the red dog?", "answer": "It went home in the park."},
          {"prompt": "Two birds sat on a tree.", "answer": "They sang."},
          {"prompt": "A dog ran in the park.", "answer": "It was happy."}]  # fmt: skip


@cache
def corpus() -> tuple[str, ...]:
    """Ordinary captions, and some lines about the phrases that the tests guard."""
    names = ["Elena Vossberg was born in New York", "the red cigarette of Elena Vossberg", "weapons: pistol, bomb"]
    return (*ordinary_captions(), *names * 10)


@cache
def tokenizer(kind: str = "bytes", size: int = 600) -> PreTrainedTokenizerFast:
    """kind: "bytes" as of GPT-2 and Llama 3, or "sentencepiece" with bytes to fall back to, as of Llama 2 and T5."""
    if kind == "bytes":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet, special = pre_tokenizers.ByteLevel.alphabet(), SPECIAL
    else:
        inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet, special = [], SPECIAL
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    inner.train_from_iterator(corpus(), trainer)
    if kind == "sentencepiece":
        state = json.loads(inner.to_str())
        vocabulary = state["model"]["vocab"]
        vocabulary.update({f"<0x{b:02X}>": len(vocabulary) + b for b in range(256)})
        inner = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        padding_side="left",
    )  # fmt: skip


def tiny_llama(tok: Any = None, seed: int = 0, beyond: int = 8, width: int = 32) -> LlamaForCausalLM:
    """Random weights; ``beyond`` rows of its embedding are no tokens, as in models whose embedding is padded."""
    tok = tok or tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tok) + beyond, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, initializer_range=0.3,
    )  # fmt: skip
    return _silent_beyond(LlamaForCausalLM(config).eval(), len(tok))


@cache
def taught(*lines: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A small Llama that has learned these lines by heart, the earlier ones better, and its tokenizer."""
    tok = tokenizer()
    model = tiny_llama(tok, width=64).train()
    for parameter in model.parameters():
        parameter.data.mul_(0.2)
    rows = [[*tok(line).input_ids, tok.eos_token_id] for line in lines for _ in range(1 + (line is lines[0]))]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tok.pad_token_id] * (longest - len(row)) for row in rows])
    labels = ids.masked_fill(ids == tok.pad_token_id, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.random.fork_rng():
        for _ in range(150):
            optimizer.zero_grad()
            model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss.backward()
            optimizer.step()
    return model.eval(), tok


def tiny_gpt2(tok: Any = None, seed: int = 0) -> GPT2LMHeadModel:
    """Random weights, and no padding token of its own."""
    tok = tok or tokenizer()
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tok), n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=tok.eos_token_id,
        eos_token_id=tok.eos_token_id, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def tiny_t5(tok: Any = None, seed: int = 0) -> T5ForConditionalGeneration:
    """An encoder and a decoder, random weights."""
    tok = tok or tokenizer("sentencepiece")
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tok), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


def _silent_beyond(model: Any, known: int) -> Any:
    """Rows beyond the tokenizer were never trained: nothing makes the model say them."""
    with torch.no_grad():
        model.lm_head.weight[known:] = 0
    return model


class Listener:
    """A streamer that keeps all tokens it is given, the prompt's as well."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.heard.extend(value.flatten().tolist())

    def end(self) -> None: ...
