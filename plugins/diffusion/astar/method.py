"""A-STAR: keeps the attention of a prompt's concepts apart, and lets each keep what it had, while a picture is drawn.

Agarwal et al., "A-STAR: Test-time Attention Segregation and Retention for Text-to-image Synthesis", ICCV 2023. Before
each step the latents go down the gradient of two losses on cross-attention maps, z ← z − λ ∇(L_seg + L_ret). The paper
retains a thresholded map of the step before; here it is that map itself.

As a guard it keeps an erased concept from the rest of the prompt, which keeps its own. It separates and does not erase:
a concept that has nothing beside it in the prompt has nothing to be kept from.
"""

from __future__ import annotations

import time
from itertools import combinations
from typing import Any, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.denoising import Conditions
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from ..concept_phrases import check_read, phrases_of
from .words import Span, find, nearest, spans_of

_REMEMBERED = 256  # prompts, and what they speak of


class ASTARSettings(Settings):
    """scale: λ by the number of latents of a picture, since the losses are ratios of whole maps, whose gradient at one
    latent falls with their number; 0 measures and changes nothing
    segregation, retention: the two losses
    keep: what is kept from the concept; without any, whatever else the prompt names
    erase: the concept's phrases are one concept, which is not retained; false: each is one of its own, all retained, as
    in the paper
    """

    scale: float = Field(default=0.05, ge=0)
    segregation: bool = True
    retention: bool = True
    keep: list[str] = []
    erase: bool = True

    @field_validator("keep")
    @classmethod
    def _not_blank(cls, keep: list[str]) -> list[str]:
        if any(not phrase.strip() for phrase in keep):
            raise ValueError("blank phrases cannot be kept: give words of the prompts, e.g. keep: [dog, cat]")
        return keep


class Reading(NamedTuple):
    """What a prompt speaks of. erased: how many of the spans come first that are to go; the others are retained."""

    spans: list[Span]
    erased: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """What is to be kept apart."""
        return [(i, j) for i, j in combinations(range(len(self.spans)), 2) if not self.erased or i < self.erased <= j]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Σ min(a, b) / Σ (a + b) of two maps [positions]: 0 for maps apart, 1/2 for the same one."""
    return torch.minimum(a, b).sum() / (a + b).sum()


def concept_maps(maps: Tensor, spans: list[Span]) -> Tensor:
    """Of attention [positions, tokens] the mean over each concept's tokens: [concepts, positions]."""
    return torch.stack([maps[:, list(span.positions)].mean(1) for span in spans])


def segregation(maps: Tensor, reading: Reading) -> Tensor:
    """L_seg of maps [concepts, positions]: how much those overlap that are to be kept apart, all pairs together."""
    return torch.stack([overlap(maps[i], maps[j]) for i, j in reading.pairs]).sum()


def retention(maps: Tensor, before: Tensor, reading: Reading) -> Tensor:
    """L_ret: what the retained concepts lost since the maps ``before``, [concepts, positions]."""
    lost = [1 - overlap(now, then) for now, then in zip(maps[reading.erased :], before[reading.erased :])]
    return torch.stack(lost).sum()


class ASTAR(Method):
    """Pictures: keeps the concept from what else a prompt names while it is drawn; separates, does not erase.

    The concept's attention is kept away from whatever else a prompt names, by gradients of the latents.
    """

    name = "astar"
    needs = "concept"
    Settings = ASTARSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not getattr(self.host, "attends", lambda: False)():
            raise PolicyError(
                f"guard '{self.guard.label}' needs a UNet whose cross-attention can be read, and {self.host.name} has "
                "none: use it on Stable Diffusion 1.x, 2.x or SDXL, or take safree or negative_guidance"
            )
        if not (self.settings.segregation or self.settings.retention):
            raise PolicyError(
                f"guard '{self.guard.label}': segregation and retention are both off, so nothing would be guarded"
            )
        self.phrases = phrases_of(self)
        self.overlaps: dict[int, list[float]] = {}  # by row, a step each: the mean over what is kept apart
        self._before: dict[tuple[int, int], Tensor] = {}
        self._readings: dict[tuple[str, ...], Reading] = {}
        self._cost = [0, 0.0]

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms, a gate."""
        return Terms(self, {}, self.gate(), towards=True)

    @hookimpl(tryfirst=True)  # the attention is to the words as they were asked for
    def condition(self, conditions: Conditions) -> None:
        """Moves the latents of rows whose gate is open. Another call of the denoiser for them, and its gradient."""
        moment = conditions.moment
        if moment.step == 0 and moment.within == 0:
            self.overlaps, self._before, self._cost = {}, {}, [0, 0.0]
            if len(self._readings) > _REMEMBERED:
                self._readings.clear()
        rows = [row for row in conditions.towards if self.act.gates[row]]
        readings = {row: self._read(conditions, row) for row in rows}
        for row in [row for row in rows if not readings[row].pairs]:
            self.act.gates[row] = 0.0  # the receipt tells of open gates only where something was done
        rows = [row for row in rows if readings[row].pairs]
        if not rows:
            return
        assert conditions.attend is not None
        begin, settings = time.perf_counter(), self.settings

        def loss(maps: Tensor) -> Tensor:
            found = []
            for row, own in zip(rows, maps):
                reading, before = readings[row], self._before.get((moment.within, row))
                now = concept_maps(own, reading.spans)
                terms = [segregation(now, reading)] if settings.segregation else [0.0 * now.sum()]
                if settings.retention and before is not None and len(reading.spans) > reading.erased:
                    # A copy: under a caller's inference mode what was kept can be in no gradient.
                    terms.append(retention(now, before.clone(), reading))
                found.append(sum(terms))
            return torch.stack(found)  # type: ignore[arg-type]

        maps, gradient = conditions.attend(rows, loss)
        for row, own in zip(rows, maps):
            now = self._before[moment.within, row] = concept_maps(own, readings[row].spans)
            apart = [float(overlap(now[i], now[j])) for i, j in readings[row].pairs]
            self.overlaps.setdefault(row, []).append(sum(apart) / len(apart))
        if settings.scale:
            strength = torch.tensor([self.act.gates[row] for row in rows], device=gradient.device)
            rate = settings.scale * gradient[0].numel() * strength
            conditions.move(rows, -rate.view(-1, *[1] * (gradient.dim() - 1)) * gradient)
            self.act.steps.append(moment.call)
        self._cost = [self._cost[0] + len(rows), self._cost[1] + time.perf_counter() - begin]
        self._tell(conditions, readings)

    def _tell(self, conditions: Conditions, readings: dict[int, Reading]) -> None:
        """The receipt's notes so far, one a prompt, and what it all cost."""
        told: dict[str, None] = {}
        for row, values in self.overlaps.items():
            if row in readings:
                spans, erased = readings[row]
                names = [repr(span.words) for span in spans]
                apart = f"{', '.join(names[:erased])} from {', '.join(names[erased:])}" if erased else ", ".join(names)
                mean = sum(values) / len(values)
                told[f"kept apart {apart} in {conditions.texts[row]!r}: mean overlap {mean:.3f} of at most 0.5"] = None
        calls, seconds = self._cost
        self.act.notes = [*told, f"cost {calls} more passes of the denoiser, forward and back, {seconds:.1f} s"]

    def _read(self, conditions: Conditions, row: int) -> Reading:
        """What the prompt of a row speaks of."""
        check_read(self, conditions, [row])
        prompt: tuple[str, ...] = conditions.prompts[row]  # type: ignore[assignment]
        if prompt not in self._readings:
            self._readings[prompt] = self._reading(prompt[0])
        return self._readings[prompt]

    def _reading(self, text: str) -> Reading:
        found = {phrase: find(self.host, text, phrase) for phrase in self.phrases}
        kept = [span for phrase in self.settings.keep if (span := find(self.host, text, phrase))]
        if not self.settings.erase:
            missing = [phrase for phrase, span in found.items() if span is None]
            if missing:
                raise GuardError(
                    f"guard '{self.guard.label}': {', '.join(map(repr, missing))} not in the prompt {text!r}, so there "
                    "is no attention to keep apart: name concepts by the prompt's own words"
                )
            return Reading([span for span in found.values() if span] + kept, 0)
        spans = [span for span in found.values() if span]
        # Opened by a likeness: the word that is most like the concept stands for it.
        spans = spans or [span for span in [nearest(self.host, text, self.phrases)] if span]
        if not spans:
            return Reading([], 1)
        positions = {p for span in spans for p in span.positions}
        erased = Span(" + ".join(dict.fromkeys(span.words for span in spans)), tuple(sorted(positions)))
        kept = kept if self.settings.keep else spans_of(self.host, text)
        return Reading([erased] + [span for span in kept if not positions & set(span.positions)], 1)
