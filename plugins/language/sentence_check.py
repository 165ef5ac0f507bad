"""Reads every finished sentence before it leaves, by what it means; one about the concept is said another way.

Sentences and the concept's prompts are compared by an encoder that knows neither the model nor the prompt: what a
sentence says is judged, in whatever words.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import Field

from conceptguard.generation.decoding import Sentence
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.text import sentence_encoder


class SentenceCheckSettings(Settings):
    """threshold: cosine from which a sentence is about the concept
    budget: sentences of one text that are taken back; then it ends before the next one
    """

    threshold: float = Field(default=0.45, gt=0, le=1)
    budget: int = Field(default=8, ge=0)


class SentenceCheck(Method):
    """Text: takes back a sentence whose meaning is about the concept, and lets the model say another.

    Raises PolicyError where the sentence encoder is not installed.
    """

    name = "sentence_check"
    needs = "concept"
    Settings = SentenceCheckSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        sentence_encoder.require()
        self.concept = self.own_concept()

    @cached_property
    def _meanings(self) -> Any:
        return sentence_encoder.encode(self.concept.prompts)

    @hookimpl
    def check_sentence(self, sentence: Sentence) -> None:
        """Rejects a sentence near enough to any of the concept's prompts."""
        score = float((sentence_encoder.encode([sentence.text]) @ self._meanings.T).max())
        if score >= self.settings.threshold:
            sentence.reject(self, self.concept.name, round(score, 4), self.settings.budget)
