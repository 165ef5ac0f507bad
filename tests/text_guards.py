"""Policies for tests of language guards, a guard that tells what it was handed, and prompts as a model takes them."""

from __future__ import annotations

from typing import Any

import torch

from conceptguard import Method, hookimpl
from conceptguard.generation.decoding import Asked, Decoding

PHRASES = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["dog", "red", "cigarette"]}}]}
SMOKING = {"name": "smoking", "prompts": ["smoking a cigarette", "tobacco"]}
SENTENCES = {"guards": [{"method": "sentence_check", "concept": SMOKING}]}


class Reader(Method):
    """Tells what it was handed, and forbids a range of tokens."""

    name = "reader"
    needs = "nothing"

    @hookimpl
    def read_prompt(self, asked: Asked) -> None:
        width = asked.pool(-2).shape[1]
        for i, text in enumerate(asked.texts):
            asked.tell(self, i, f"{text}, {width} wide", 0.5)

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        decoding.forbid(self, torch.arange(100, 400, device=decoding.scores.device))


def given(tok: Any, *prompts: str) -> dict[str, Any]:
    return dict(tok(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False))
