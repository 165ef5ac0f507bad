"""Write a trained model as a folder that transformers loads: fp16 safetensors, config, tokenizer."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """model.safetensors, config.json, generation_config.json and the tokenizer's files."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config.pop("_name_or_path", None)
    # Stored in half, loaded in full: what a library does when no type is asked for differs from version to version.
    config["dtype"] = config["torch_dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
