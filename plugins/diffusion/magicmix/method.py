"""MagicMix: the layout of one prompt or picture, the content of another. And so a concept's place without the concept.

Liew et al., "MagicMix: Semantic Mixing with Diffusion Models", 2022. Noisy steps settle a picture's layout, later ones
its content. So the first steps follow one condition and the others another one, and in between, from k_max to k_min of
the noise schedule, the layout is mixed into what is denoised: x ← ν x + (1 − ν)(layout, as noisy as x). Both the
denoiser and the sampler's step start from the mixture, as the paper has it.

As a guard: the prompt keeps its layout, and its content comes from the same words with the concept's ``replacement``,
or nothing, in the concept's place; the paper's removal, which gives the concept a negative weight in the content, is
``negative``. What early steps have settled is not undone: how much of the concept is left is a matter of ``kmax``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.conditioning import Encoded
from conceptguard.generation.denoising import TIMESTEPS, Conditions, Step
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from ..concept_phrases import Free, as_one

_REMEMBERED = 256  # prompts, and what their content is


class MagicMixSettings(Settings):
    """kmax, kmin: where on the noise schedule, from 1 to 0, the content takes over and where the layout lets go
    nu: ν, the share of the content while both are mixed
    negative: guide the content away from the concept's phrases, which join the caller's negative prompt
    """

    kmax: float = Field(default=0.6, gt=0, le=1)
    kmin: float = Field(default=0.3, ge=0, lt=1)
    nu: float = Field(default=0.5, ge=0, le=1)
    negative: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> MagicMixSettings:
        if self.kmin >= self.kmax:
            raise ValueError(f"kmin {self.kmin:g} is not below kmax {self.kmax:g}: the noise goes from 1 to 0")
        return self


def mixed(latents: Tensor, clean: Tensor, noise: Tensor, levels: tuple[float, float], nu: float) -> Tensor:
    """ν x + (1 − ν)(signal · clean + noise · ε), float32; levels: (signal, noise) of x."""
    signal, spread = levels
    return nu * latents.float() + (1 - nu) * (signal * clean + spread * noise)


class MagicMix(Method):
    """Pictures: keeps the layout of a prompt that names the concept, and draws its content without it."""

    name = "magicmix"
    needs = "concept"
    Settings = MagicMixSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not hasattr(self.host, "noise_levels"):
            raise PolicyError(f"guard '{self.guard.label}' moves latents, and {self.host.name} has none")
        self.concept = self.own_concept()
        self.layout: Tensor | None = None  # clean latents [1, ...] to keep instead of what the prompt draws
        self._layouts: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (clean, noise) by call and row
        # By what was asked, and by how the call encodes texts.
        self._contents: dict[tuple[tuple[str, ...] | None, Hashable], tuple[tuple[str, ...], Encoded]] = {}
        self._negatives: dict[tuple[str, Hashable], Encoded] = {}

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms, a gate, which also tells whether a content is free of the concept."""
        gate = self.gate()
        self._free = Free(self, gate)
        return Terms(self, {}, gate, towards=True)

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        """Content for the rows whose gate is open, once the layout is settled, and the layout mixed in for a while."""
        if conditions.moment.step == 0 and conditions.moment.within == 0:
            self._layouts.clear()
            if len(self._contents) > _REMEMBERED:
                self._contents.clear()
                self._negatives.clear()
        rows = [row for row in conditions.towards if self.act.gates[row]]
        if not rows or (self.layout is None and self._early(conditions.noise, conditions.last)):
            return
        settings, within = self.settings, conditions.moment.within
        gates = [min(self.act.gates[row], 1.0) for row in rows]
        for row, gate in zip(rows, gates):
            self._change(conditions, row, gate)
            if settings.negative:
                self._steer(conditions, row, gate)
        if self.layout is not None and conditions.moment.step == 0:
            self._given(conditions, rows)
        held = [(row, gate) for row, gate in zip(rows, gates) if (within, row) in self._layouts]
        if conditions.noise >= settings.kmin and held:
            assert conditions.latents is not None
            levels = self.host.noise_levels().at(conditions.timestep)
            x = conditions.latents.float()
            by = [g * (mixed(x[r], *self._layouts[within, r], levels, settings.nu) - x[r]) for r, g in held]
            conditions.move([row for row, _ in held], torch.stack(by))
        self.act.steps.append(conditions.moment.call)

    @hookimpl(trylast=True)
    def predict_noise(self, step: Step) -> None:
        """Remembers the layout: the picture, and the noise, that the last step before ``kmax`` sees in the latents."""
        rows = [row for row in step.towards if self.act.gates[row]]
        if self.layout is not None or not rows or step.noise <= self.settings.kmax:
            return
        levels, against, scale = self.host.noise_levels(), step.away_from(), step.guidance_scale
        latents = step.latents[:, : step.prediction.shape[1]] if step.latents.dim() > 3 else step.latents
        for row in rows:
            predicted, other = step.prediction[row].float(), against[row]
            if other is not None and scale is not None and scale > 1:
                nothing = step.prediction[other].float()
                predicted = nothing + scale * (predicted - nothing)
            self._layouts[step.moment.within, row] = levels.parts(latents[row], predicted, step.timestep)

    def _early(self, noise: float, last: float) -> bool:
        """Whether the layout is still being made. A schedule that never comes below ``kmax`` is all content."""
        return noise > self.settings.kmax >= last / TIMESTEPS

    def _given(self, conditions: Conditions, rows: list[int]) -> None:
        """A picture's layout, with the noise that the pipeline put on it."""
        assert self.layout is not None and conditions.latents is not None
        signal, spread = self.host.noise_levels().at(conditions.timestep)
        for row in rows:
            clean = self.layout[0].to(conditions.latents.device).float()
            noise = (conditions.latents[row].float() - signal * clean) / spread
            self._layouts[conditions.moment.within, row] = clean, noise

    def _change(self, conditions: Conditions, row: int, gate: float) -> None:
        """The content's embeddings for one row."""
        asked = conditions.prompts[row]
        key = asked, self.host.encoding
        if key not in self._contents:
            instead = self.concept.replacement
            texts = tuple(self._free(text, instead, instead) for text in asked) if asked else (instead,) * 3
            self._contents[key] = texts, self.host.encode([texts])
        texts, content = self._contents[key]
        self._blend(conditions, row, content, gate)
        text = "the picture" if self.layout is not None else repr(conditions.texts[row]) if asked else "embeddings"
        note = f"the layout of {text} until {self.settings.kmax:g} of the noise, then the content of "
        note += repr(texts[0]) if texts[0] else "nothing"
        # Another guard of this kind takes its own concept out of what is left.
        conditions.prompts[row], conditions.texts[row] = texts, texts[0]
        if note not in self.act.notes:
            self.act.notes.append(note)

    def _steer(self, conditions: Conditions, row: int, gate: float) -> None:
        """The concept joins the negative prompt of one row."""
        other = conditions.away_from()[row]
        own = "" if other is None else conditions.texts[other]
        if other is None and conditions.cut:
            raise GuardError(
                f"guard '{self.guard.label}': negative needs classifier-free guidance, and {conditions.unguided}, or "
                "set negative: false"
            )
        if other is None or own is None:
            raise GuardError(
                f"guard '{self.guard.label}': negative needs classifier-free guidance, and a negative prompt as text: "
                "set guidance_scale above 1 and give texts, or set negative: false"
            )
        text = as_one(self, self.concept.prompts, own)
        key = own, self.host.encoding
        if key not in self._negatives:
            self._negatives[key] = self.host.encode_negative([text])
        self._blend(conditions, other, self._negatives[key], gate)
        conditions.texts[other] = text

    def _blend(self, conditions: Conditions, row: int, new: Encoded, gate: float) -> None:
        """Other embeddings for one row; those between, where the gate is not fully open."""
        embeds = self.host.lengthened(new.embeds, conditions.embeds.shape[1])[0]
        conditions.blend(row, embeds, None if new.pooled is None else new.pooled[0], gate)
