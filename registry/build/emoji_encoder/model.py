"""CLIP's own two towers, only narrower: 48 px in patches of 8, texts of at most 32 tokens of a small vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from ..emoji_sd.tokenizer import write_files

SIZE, WIDTH, WINDOW = 48, 128, 32
MERGES = 1200
# What the towers see has about this mean and spread; CLIP's own figures are of photographs.
MEAN, SPREAD = [0.8, 0.8, 0.8], [0.28, 0.28, 0.28]


def learn_tokenizer(texts: list[str], folder: Path) -> CLIPTokenizer:
    """Byte pairs of these texts, as a CLIPTokenizer's folder."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.BpeTrainer(vocab_size=MERGES, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts, trainer)
    found = json.loads(learner.to_str())["model"]["merges"]
    return write_files(folder, [" ".join(pair) for pair in found], WINDOW)


def make_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """What CLIP's loaders look for beside the weights."""
    side = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=MEAN, image_std=SPREAD, resample=2
    )
    return CLIPProcessor(pictures, tokenizer)


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """0.6 M parameters for pictures, 0.5 M for texts."""
    common = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = common | {
        "num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": WINDOW,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = common | {"num_hidden_layers": 4, "image_size": SIZE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
