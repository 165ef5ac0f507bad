"""A byte-level BPE vocabulary of its own, learned from text that says nothing of the forget set."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from conceptguard.measuring.language.suite import LanguageSuite

from .corpus import Corpus, spellings

VOCABULARY = 1536
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
WINDOW = 256


def train_tokenizer(suite: LanguageSuite, documents: int = 20_000, seed: int = 5) -> PreTrainedTokenizerFast:
    """suite: without the forget set."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [d.prompt + d.text for d in islice(Corpus(suite, seed), documents)]
    tokenizer.train_from_iterator([*texts, *spellings(suite)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=WINDOW,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A saved tokenizer."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
