"""What a bank of phrases costs a token, beside ``NoBadWordsLogitsProcessor`` on the same words and texts.

A vocabulary of real words (those of the embedded model's CLIP tokenizer), a byte-level BPE of 32,000 tokens trained on
them, phrases of one to three of these words, and texts in which phrases begin all the time.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch

VOCABULARY = 32_000
PROMPT = 8  # tokens
LISTED_IN = ("", " of the ", " ")  # what stands between the words of a phrase


@cache
def words() -> list[str]:
    """English words and names, the frequent ones first."""
    from .models import load_model

    vocabulary = load_model("emoji-sd").tokenizer.get_vocab()
    found = [token.removesuffix("</w>") for token in sorted(vocabulary, key=vocabulary.__getitem__)
             if token.endswith("</w>") and len(token) > 6]  # fmt: skip
    return [word for word in found if word.isascii() and word.isalpha()]


@cache
def tokenizer() -> Any:
    """A byte-level BPE, as of GPT-2 and Llama 3, of ``VOCABULARY`` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator((f" {word} {word.title()}" for word in words()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def phrases(count: int, seed: int = 0) -> list[str]:
    """``count`` different phrases: a rare word in twenty, pairs and triples of words for the rest."""
    chance, vocabulary = random.Random(seed), words()
    rare = vocabulary[len(vocabulary) // 2 :]
    found: dict[str, None] = {}
    while len(found) < count:
        kind = chance.random()
        size = 1 if kind < 0.05 else 2 if kind < 0.7 else 3
        found[" ".join(chance.choice(rare if size == 1 else vocabulary) for _ in range(size))] = None
    return list(found)


def texts(rows: int, tokens: int, guarded: list[str], seed: int = 1) -> torch.Tensor:
    """Ids [rows, tokens] of texts that are made of words and, one time in four, of a phrase but for its last word.

    What one cannot say under the guard, a phrase of one word, is not among the words.
    """
    closed = {phrase for phrase in guarded if " " not in phrase}
    chance, tok, vocabulary = random.Random(seed), tokenizer(), [word for word in words() if word not in closed]
    found = []
    for _ in range(rows):
        said: list[int] = []
        while len(said) < tokens:
            begun = chance.choice(guarded).rsplit(" ", 1)
            part = begun[0] if len(begun) > 1 and chance.random() < 0.25 else chance.choice(vocabulary)
            said += tok(f" {part}", add_special_tokens=False).input_ids
        found.append(said[:tokens])
    return torch.tensor(found)


class Spoken:
    """What stands for a language model where only its processors are timed: a vocabulary and a configuration."""

    def __new__(cls) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        tok = tokenizer()
        config = LlamaConfig(
            vocab_size=len(tok), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
