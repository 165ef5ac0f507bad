"""The embedded language model, converted by onnxruntime-genai's own builder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from paths import ROOT

import conceptguard


@cache
def folder() -> Path:
    """Where it lies; made once a process."""
    made = Path(tempfile.mkdtemp(prefix="conceptguard-onnx-"))
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    options = ["-p", "fp32", "-e", "cpu", "-c", str(made / "cache"), "-o", str(made / "authors-onnx")]
    source = ROOT / "registry" / "models" / "authors-lm"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*builder, "-m", str(source), *options], capture_output=True, text=True, env=environment, timeout=800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made / "authors-onnx"


@cache
def pair() -> Any:
    """(model, tokenizer), loaded once a process."""
    return conceptguard.load_model(str(folder()))


@cache
def original() -> Any:
    """The same model in transformers."""
    return conceptguard.load_model("authors-lm")
