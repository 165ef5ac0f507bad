"""Converted models from a folder."""

from __future__ import annotations

from pathlib import Path

from ...host import LanguageModel
from .model import CONFIG, OnnxModel


def is_onnx(folder: Path) -> bool:
    """Whether a folder is one that onnxruntime-genai's builder has made."""
    return (folder / CONFIG).is_file()


def load_onnx_model(folder: Path) -> LanguageModel:
    """Its model and tokenizer. Raises RegistryError."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    except (ValueError, OSError):  # no config.json is beside it, which names a class in most releases
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    return LanguageModel(OnnxModel(folder), tokenizer)
