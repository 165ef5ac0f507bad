"""A LLaVA, only narrow: emoji-encoder's picture tower, for 48 px in patches of 8, and a Llama of three layers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ..emoji_encoder.model import MEAN, SPREAD

SIZE, PATCH, WIDTH, DEPTH, INNER = 48, 8, 128, 3, 320
SEEN = (SIZE // PATCH) ** 2 + 1  # tokens of a picture, the tower's own first one included
WHOLE = "full"  # which of them the text model reads: in the first one the encoder has gathered what it sees
VOCABULARY, WINDOW = 640, 96
PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"


def learn_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, normalized=False, special=True) for mark in (PAD, BOS, EOS, IMAGE)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=WINDOW,
        padding_side="left", clean_up_tokenization_spaces=False, additional_special_tokens=[IMAGE],
    )  # fmt: skip


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What turns pictures and texts into a model's inputs."""
    side = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=MEAN, image_std=SPREAD, resample=2
    )
    return LlavaProcessor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy=WHOLE, image_token=IMAGE,
        num_additional_image_tokens=1,
    )  # fmt: skip


def make_model(tokenizer: PreTrainedTokenizerFast, encoder: Path) -> LlavaForConditionalGeneration:
    """1.3 M parameters: the picture tower of an encoder's folder, and a text model with random weights."""
    tower = CLIPVisionModel.from_pretrained(encoder, dtype=torch.float32)
    common = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    text = LlamaConfig(
        **common, **ends, vocab_size=len(tokenizer), max_position_embeddings=WINDOW, tie_word_embeddings=True
    )
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=tower.config, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=SEEN, vision_feature_layer=-1, vision_feature_select_strategy=WHOLE,
        tie_word_embeddings=True,
    ))  # fmt: skip
    model.model.vision_tower.load_state_dict(tower.state_dict())
    for name, value in ends.items():
        setattr(model.generation_config, name, value)
    return model


def export(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """A folder that transformers loads: fp16 weights, configurations, the tokenizer's files."""
    model.to("cpu", torch.float16).save_pretrained(out)
    processor.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    for part in (config, *(it for it in config.values() if isinstance(it, dict))):
        part.pop("_name_or_path", None)  # where on this machine its picture tower was read
    # Stored in half, loaded in full: what a library does when no type is asked for differs from version to version.
    config["dtype"] = config["torch_dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
