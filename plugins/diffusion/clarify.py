"""Ask instead of refuse: a prompt that could mean the concept, or something harmless, gets a question for an answer.

Asking follows Kuhn et al., "CLAM: Selective Clarification for Ambiguous Questions with Generative Language Models",
2022: first decide whether a prompt is ambiguous, only then ask. Naming what a prompt says beside the concept follows
Wu et al., "Instructing Large Language Models to Identify and Ignore Irrelevant Conditions" (I³C), 2024.
"""

from __future__ import annotations

import re

from pydantic import field_validator

from conceptguard.errors import Clarification, GuardError
from conceptguard.generation.conditioning import Prompts
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.gates import GateBank
from conceptguard.runtime.lowrank import LayerIndex, Terms
from conceptguard.text.words import stands_in


class ClarifySettings(Settings):
    """words: ambiguous words; for each its readings, and for each reading the words that settle it, e.g.
    {shot: {a photograph: [camera], a drink: [bar, whisky], a gunshot: [gun]}}
    unsure: also ask where the gate is neither shut nor fully open
    """

    words: dict[str, dict[str, list[str]]] = {}
    unsure: bool = True

    @field_validator("words")
    @classmethod
    def _two_readings(cls, words: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
        for word, readings in words.items():
            if not word.strip() or len(readings) < 2:
                raise ValueError(
                    f"'{word}' needs two readings or more, e.g. shot: {{a photograph: [], a gunshot: [gun]}}"
                )
        return words


class Clarify(Method):
    """Pictures: answers a prompt that could mean the concept with a question, and draws nothing.

    Raises ``Clarification`` for what could be the concept. What surely is, other guards of the policy erase.
    """

    name = "clarify"
    needs = "concept"
    Settings = ClarifySettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms; at attach, the gate that tells how near a text is to the concept."""
        self.concept = self.own_concept()
        gate = self.gate()
        self._bank = GateBank([gate], self.host.read, self.host.encoding_cache())
        return Terms(self, {}, gate, towards=True)

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        """Reads every prompt that a picture is drawn towards. Raises GuardError for embeddings without their text."""
        rows = [row for row, branch in enumerate(prompts.branches) if branch == "conditional"]
        if not rows:
            return
        gates = self._bank(prompts.embeds[rows], [prompts.ids[row] for row in rows])[:, 0].tolist()
        for text, gate in dict.fromkeys((prompts.texts[row], gate) for row, gate in zip(rows, gates)):
            if text is None:
                raise GuardError(
                    "clarify reads the words of a prompt, and embeddings came without theirs: pass the prompt as text, "
                    "or leave clarify out of the policy"
                )
            self._ask(text, gate)

    def _ask(self, text: str, gate: float) -> None:
        for word, readings in self.settings.words.items():
            hints = [word_ for reading, hints in readings.items() for word_ in (reading, *hints)]
            if stands_in(word, text) and not any(stands_in(hint, text) for hint in hints):
                raise Clarification(f"What is '{word}' in '{text}'?", list(readings))
        if self.settings.unsure and 0 < gate < self.guard.strength:
            raise Clarification(f"Is '{text}' about {self.concept.name}?", [self.concept.name, "something else"])
        if gate:
            self._name_padding(text)

    def _name_padding(self, text: str) -> None:
        """A note that tells the clauses about the concept from those around them."""
        clauses = [part.strip() for part in re.split(r"[.,;:!?\n]+", text) if part.strip()]
        if len(clauses) < 2:
            return
        encoded = self.host.read(clauses)
        opened = (self._bank(encoded.embeds, encoded.ids)[:, 0] > 0).tolist()
        about, beside = ([c for c, o in zip(clauses, opened) if o is which] for which in (True, False))
        if about and beside:
            self.act.notes.append(f"asks for {_quoted(about)}; beside the point: {_quoted(beside)}")


def _quoted(texts: list[str]) -> str:
    return ", ".join(f"'{text}'" for text in texts)
