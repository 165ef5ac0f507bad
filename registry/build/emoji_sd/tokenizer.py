"""CLIP's own byte-pair vocabulary (49,408 entries) as vocab.json and merges.txt, from open_clip's copy of it."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

from transformers import CLIPTokenizer

MAX_LENGTH = 77


def byte_symbols() -> list[str]:
    # GPT-2's printable stand-ins for the 256 bytes, in the order that CLIP's vocabulary begins with.
    keep = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + n) for n in range(len(rest))]


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes a CLIPTokenizer folder and returns the tokenizer."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("open_clip_torch carries CLIP's vocabulary: pip install --no-deps open_clip_torch")
    source = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    return write_files(folder, merges, MAX_LENGTH)


def write_files(folder: Path, merges: list[str], length: int) -> CLIPTokenizer:
    """The files of a CLIPTokenizer whose entries are the bytes, the bytes that end a word, and the merges in order."""
    symbols = byte_symbols()
    entries = symbols + [s + "</w>" for s in symbols] + ["".join(m.split()) for m in merges]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({e: i for i, e in enumerate(entries)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    # The same files that SD1 repositories ship, written by hand: loading them does not depend on a library's version.
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)
