"""The embedded language model, converted by onnxruntime-genai's own builder."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from paths import ROOT

import conceptguard
from tools.converted_speech import converted


@cache
def folder() -> Path:
    """Where it lies; made once a process."""
    made = Path(tempfile.mkdtemp(prefix="conceptguard-onnx-"))
    return Path(converted(str(ROOT / "registry" / "models" / "authors-lm"), made / "authors-onnx"))


@cache
def pair() -> Any:
    """(model, tokenizer), loaded once a process."""
    return conceptguard.load_model(str(folder()))


@cache
def original() -> Any:
    """The same model in transformers."""
    return conceptguard.load_model("authors-lm")
