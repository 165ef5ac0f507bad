"""The bench on which a case for language models is judged: one model, bare and guarded texts of a few tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from .. import plugins
from ..errors import Refused
from ..hookspecs import TEXT
from ..hosts.transformers.logits import logits_processor
from ..method import Method
from ..sessions.attach import attach
from ..sessions.language import LanguageSession
from .case import TextCase

Texts = list[list[int]]


@cache
def embedded_language_model() -> Any:
    """The embedded language model and its tokenizer, loaded once per process."""
    from ..hosts.load import load_model

    return load_model("authors-lm")


class TextBench:
    """Runs a case. A text is the ids said after the prompt, without what pads it."""

    def __init__(self, case: TextCase):
        self.case = case

    @cached_property
    def pipe(self) -> Any:
        """(model, tokenizer): what a policy is attached to."""
        model, tokenizer = (self.case.load or embedded_language_model)()
        return model, tokenizer

    @property
    def model(self) -> Any:
        """The language model."""
        return self.pipe[0]

    @cached_property
    def method(self) -> type[Method]:
        """The method that is judged."""
        return plugins.method(self.case.guard["method"])

    @property
    def hooks(self) -> list[str]:
        """The hooks for text that the method implements."""
        return sorted(plugins.hooks(self.method) & TEXT)

    @property
    def attached_only(self) -> bool:
        """Whether the method takes text back, or acts inside of the model, which no logits processor can."""
        return bool({"check_sentence", "hidden_states"} & {*self.hooks})

    def policy(self, *guards: Mapping[str, Any]) -> dict[str, Any]:
        """A policy of these guards, by default the case's own."""
        return {"name": "contract", "guards": [dict(g) for g in guards or [self.case.guard]]}

    @contextmanager
    def attached(self, *guards: Mapping[str, Any]) -> Iterator[LanguageSession]:
        """The model under these guards (by default the case's own)."""
        with attach(self.pipe, self.policy(*guards)) as session:
            yield session

    def processor(self, *guards: Mapping[str, Any]) -> Any:
        """The same as a list of logits processors."""
        model, tokenizer = self.pipe
        return logits_processor(model, tokenizer, self.policy(*guards))

    def generate(self, pipe: Any, prompts: Sequence[str], **options: Any) -> Texts:
        """Greedy texts, one a prompt, or as many as the options say."""
        model, reader = pipe
        given = reader(text=list(prompts), return_tensors="pt", padding=True, padding_side="left",
                       **self._shown(reader, prompts))  # fmt: skip
        begin = 1 if model.config.is_encoder_decoder else given["input_ids"].shape[1]
        names = [name for name in ("input_ids", "attention_mask", "pixel_values") if name in given]
        torch.manual_seed(0)
        out: Tensor = model.generate(
            **{name: given[name].to(model.device) for name in names},
            **{"max_new_tokens": self.case.tokens, "do_sample": False, **options},
        )
        return [self._said(row, getattr(reader, "tokenizer", reader)) for row in out[:, begin:].tolist()]

    def _shown(self, reader: Any, prompts: Sequence[str]) -> dict[str, Any]:
        """The case's picture for every place that prompts have."""
        places = 0 if self.case.picture is None else sum(text.count(reader.image_token) for text in prompts)
        return {"images": [self.case.picture] * places} if places else {}

    def _said(self, row: list[int], tokenizer: Any) -> list[int]:
        config = self.model.generation_config
        ends = {config.eos_token_id, config.pad_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        return row[: next((at for at, token in enumerate(row) if token in ends), len(row))]

    def bare(self, prompts: Sequence[str], **options: Any) -> Texts:
        """The same without any guard."""
        return self.generate(self.pipe, prompts, **options)

    def attempt(self, prompts: Sequence[str], **options: Any) -> Texts | None:
        """A guarded generation; None where a guard refuses the prompt, which is an answer as good as any."""
        try:
            return self.generate(self.pipe, prompts, **options)
        except Refused:
            return None
