"""Concept-gated attention: of several concepts in one prompt one is closed, and the others keep rows of their own.

A causal text encoder mixes every word into all that follow: of "a skull and a dog" the rows of the dog, and those of
the padding, speak of the skull. So closing the skull's own rows is not enough, and closing all takes the dog along.
Here the rows that layers make keys and values of are put together anew: the guarded concept's are those of the empty
prompt, and every other row comes from an encoding in which a neutral word stands in the concept's place. What is named
in ``apart`` is encoded without each other as well; of the padding each of these has every k-th row.

The idea of separate rows for each concept, tied to its word, is that of Huang et al., "ConceptMaster: Multi-Concept
Video Customization on Diffusion Transformer Models Without Test-Time Tuning", 2025. Its trained embeddings of reference
pictures, and its attention layers, are not here.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.generation.denoising import Conditions
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms
from conceptguard.text.words import any_of

from .concept_phrases import Free, opened

PLACE = "something"  # what stands where a closed concept stood: as long as a word, and of nothing
_PLACES = any_of([PLACE])
_REMEMBERED = 256  # prompts, and what their rows are


class ConceptMasterSettings(Settings):
    """apart: further phrases that prompts may name, each of which gets rows that know nothing of the other ones"""

    apart: list[str] = []


class _Rows(NamedTuple):
    """What a prompt becomes: its texts, one for each encoder, embeds [tokens, width], pooled [width] or None."""

    texts: tuple[str, ...]
    embeds: Tensor
    pooled: Tensor | None


class ConceptMaster(Method):
    """Pictures: of several concepts in a prompt, video too, closes one; the rest is read as if it had not been said.

    A prompt that is still about the concept then loses the one word that makes it so; where there is none, all of it.
    """

    name = "concept_master"
    needs = "concept"
    Settings = ConceptMasterSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not hasattr(self.host, "encoders"):
            raise PolicyError(f"guard '{self.guard.label}': {self.host.name} has no text encoders, which it reads")
        self._apart = [any_of([phrase]) for phrase in self.settings.apart if phrase.strip()]
        self._rows: dict[Hashable, _Rows] = {}

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms, a gate, which also tells whether what is left of a prompt is free of the concept."""
        gate = self.gate()
        self._free = Free(self, gate)
        return Terms(self, {}, gate, towards=True)

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        """Rows of their own for the prompts whose gate is open."""
        rows = opened(self, conditions)
        if not rows:
            return
        if conditions.moment.call == 0 and len(self._rows) > _REMEMBERED:
            self._rows.clear()
        for row in rows:
            self._change(conditions, row)
        self.act.steps.append(conditions.moment.call)

    def _change(self, conditions: Conditions, row: int) -> None:
        """One row's own embeddings become those without the concept, as far as its gate is open."""
        asked, tokens = conditions.prompts[row], conditions.embeds.shape[1]
        key = asked, self.host.encoding, tokens
        if key not in self._rows:
            self._rows[key] = self._made(asked, tokens)  # type: ignore[arg-type]
        texts, embeds, pooled = self._rows[key]
        conditions.blend(row, embeds, pooled, min(self.act.gates[row], 1.0))
        note = f"{conditions.texts[row]!r} was read as {texts[0]!r}" + (", that word closed" * (PLACE in texts[0]))
        # Another guard of this kind closes its own concept in what is left.
        conditions.prompts[row], conditions.texts[row] = texts, texts[0]
        if note not in self.act.notes:
            self.act.notes.append(note)

    def _made(self, asked: Sequence[str], tokens: int) -> _Rows:
        """The rows of a prompt without the concept."""
        concept = self._free.concept
        texts = tuple(self._free(text, concept.replacement or PLACE, concept.replacement, words=True) for text in asked)
        kept = [phrase for phrase in self._apart if any(phrase.search(text) for text in texts)]
        alone = [tuple(_only(text, phrase, kept) for text in texts) for phrase in kept] if len(kept) > 1 else []
        encoded = self.host.encode([texts, *alone, ("",) * len(texts)])
        whole, *own, nothing = self.host.lengthened(encoded.embeds, tokens)
        new = whole.clone()
        for encoder in self.host.encoders():
            if encoder.width is None:
                continue
            part = (encoder.tokens, encoder.width)
            text, into = texts[encoder.number], new[part]
            for phrase, others, states in zip(kept, alone, own):
                # The same words stand at other positions where a neutral word is shorter than what it stands for.
                for here, there in zip(phrase.finditer(text), phrase.finditer(others[encoder.number])):
                    a, b = _positions(encoder, text, here), _positions(encoder, others[encoder.number], there)
                    _put(into, a, states[part], b)
            begin = encoder.length(encoder.ids([text])[0]) - 1
            for i, states in zip(range(begin, len(into)), _in_turn(own)):
                into[i] = states[part][i]
            for found in _PLACES.finditer(text):
                at = _positions(encoder, text, found)
                _put(into, at, nothing[part], at)
        return _Rows(texts, new, None if encoded.pooled is None else encoded.pooled[0])


def _only(text: str, phrase: re.Pattern[str], among: Sequence[re.Pattern[str]]) -> str:
    """A text in which of several phrases one alone is left."""
    for other in among:
        text = text if other is phrase else other.sub(PLACE, text)
    return text


def _positions(encoder: Any, text: str, found: re.Match[str]) -> list[int]:
    """Where the words of a match stand among the encoder's states."""
    until = [text[: found.start()].rstrip(), text[: found.end()]]
    begin, end = (len(ids) for ids in encoder.ids(until, whole=True))
    return encoder.positions(range(begin, end))


def _put(into: Tensor, at: Sequence[int], states: Tensor, read: Sequence[int]) -> None:
    """Some rows of other states; those beyond the encoder's window are nowhere."""
    for a, b in zip(at, read):
        if max(a, b) < len(into):
            into[a] = states[b]


def _in_turn(several: Sequence[Tensor]) -> Any:
    """Each of them again and again; nothing of none."""
    while several:
        yield from several
