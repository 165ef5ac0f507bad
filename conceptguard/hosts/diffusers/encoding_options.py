"""What a pipeline's call may change in how its texts are encoded: ``clip_skip``, ``max_sequence_length`` and the like.

Guards' own texts are encoded in the same way, and gates read prompts as they were measured: without.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Options = Mapping[str, Any]
# Parts of the names of arguments of ``encode_prompt`` that say what is encoded, where, and how often.
_OTHERS = ("prompt", "embeds", "device", "dtype", "guidance", "unconditional", "num_", "components", "batch")
_POSITIVE = ("clip_skip",)  # pipelines use these for what a picture is drawn towards, and not for negative prompts
_LENGTH = ("max_sequence_length",)  # these leave what gates read as it is, but for its length


def defaults_of(encode_prompt: Callable[..., Any]) -> dict[str, Any]:
    """Options that an ``encode_prompt`` takes, with their defaults."""
    found = inspect.signature(encode_prompt).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: None if p.default is p.empty else p.default for name, p in found.items()
        if p.kind not in kinds and not any(part in name for part in _OTHERS)
    }  # fmt: skip


def options_of(arguments: Mapping[str, Any], defaults: Options) -> dict[str, Any]:
    """What a call gave that is not the default."""
    return {name: arguments[name] for name in defaults if arguments.get(name, defaults[name]) != defaults[name]}


def of_negatives(options: Options) -> dict[str, Any]:
    """Those that count for negative prompts, too."""
    return {name: value for name, value in options.items() if name not in _POSITIVE}


def read_otherwise(options: Options) -> bool:
    """Whether embeddings under these options are not what gates were measured on."""
    return any(name not in _LENGTH for name in options)
