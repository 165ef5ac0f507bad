"""SAFREE: takes the concept out of a prompt's embeddings, where and as long as the prompt needs it. No training.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation", ICLR 2025. The
published figures also pass the concept as negative prompt; here that is a switch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.conditioning import Encoded
from conceptguard.generation.denoising import Conditions
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from ..concept_phrases import as_one, opened, phrases_of
from .make import SAFREEMakeSettings, learn, subspaces_of
from .math import safe_steps
from .official import side_by_side
from .projection import of_pooled, of_states
from .reattention import reattend
from .triggers import Part, concept_subspaces, read

if TYPE_CHECKING:
    pass


class SAFREESettings(Settings):
    """projection: take the concept out of trigger tokens
    schedule: the self-validating filter: for the first steps only, the more the projection takes the longer
    reattention: damp low frequencies of skip features that grew by the projection; UNets only, one more row each
    negative_prompt: guide away from the concept's phrases, beside the caller's own negative prompt
    positions: "triggers", as the paper does, or "all": also the end token and the padding, into which CLIP writes most
    of what a prompt says
    scale: how far out of the concept's subspace; 1 is the paper's, which is just outside, more is past it
    compat: "paper", or "official" for the order of projections, the tokens and the last step of the authors' code
    alpha: how much farther from the concept the prompt must be without a token, to call it a trigger
    up_t, t0, k: most steps, midpoint and steepness of the schedule; the authors' for nudity (artists: t0 5.5, k 3.5).
    They depend on the text encoder, as scale does: an artifact brings measured ones
    s1, s2: what reattention multiplies with at the widest up blocks, and at the next narrower ones
    """

    projection: bool = True
    schedule: bool = True
    reattention: bool = False
    negative_prompt: bool = False
    positions: Literal["triggers", "all"] = "triggers"
    scale: float = Field(default=1.0, gt=0)
    compat: Literal["paper", "official"] = "paper"
    alpha: float = Field(default=0.01, ge=0)
    up_t: int = Field(default=10, ge=0)
    t0: float = 5.333
    k: float = 2.5
    s1: float = Field(default=0.9, ge=0)
    s2: float = Field(default=0.2, ge=0)


Prompt = tuple[str, ...]  # what each text encoder is given


@dataclass
class _Reading:
    """What is known of one prompt: for each encoder one part per space, and the trigger tokens."""

    parts: list[list[Part]]
    words: list[str]


@dataclass
class _Safe:
    """Rows of embeddings as they came, their safe counterparts, and from which step on each is the original again."""

    source: Tensor
    embeds: Tensor
    pooled: Tensor | None
    until: list[int | None]


class SAFREE(Method):
    """Pictures: takes the concept out of a prompt's tokens; needs no training, only the concept's words."""

    name = "safree"
    needs = "concept"
    Settings = SAFREESettings
    MakeSettings = SAFREEMakeSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not (self.settings.projection or self.settings.negative_prompt):
            raise PolicyError(
                f"guard '{self.guard.label}': projection and negative_prompt are both off, so nothing would be guarded"
            )
        if not hasattr(self.host, "encoders"):
            raise PolicyError(f"guard '{self.guard.label}': {self.host.name} has no text encoders, which safree reads")
        if self.settings.reattention and self.host.denoiser_name != "unet":
            raise PolicyError(
                f"guard '{self.guard.label}': reattention acts on a UNet's skip connections, and {self.host.name} has "
                "none: set reattention: false"
            )
        self.phrases = phrases_of(self)
        self._readings: dict[Prompt, _Reading] = {}
        self._safe: dict[tuple[Prompt, ...], _Safe] = {}
        self._negative: dict[tuple[str, Hashable], Encoded] = {}

    @classmethod
    def peers(cls) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
        """The projection of 32 prompts by 17 phrases at the width of Stable Diffusion 1.5."""
        return {"official projection": side_by_side()}

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """The concept's subspaces and a measured schedule, see ``make``."""
        return learn(task)

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms; at attach, the concept's subspaces. The gate is the policy's, ``gate: always`` is the paper's."""
        self._encoders = self.host.encoders()
        if self.artifact is not None:
            self._concepts = subspaces_of(self.artifact, self._encoders)
        else:
            self._concepts = [concept_subspaces(encoder, self.phrases) for encoder in self._encoders]
        for concept in [concept for concepts in self._concepts for concept in concepts]:
            rank, width = int(concept.any(-1).sum()), concept.shape[-1]
            if rank >= width - 1:  # a layer norm takes one dimension
                raise PolicyError(
                    f"guard '{self.guard.label}': {len(concept)} phrases span all {width} dimensions of a text "
                    "encoder, so nothing of any prompt would be left: give fewer phrases"
                )
        if self.settings.negative_prompt:
            as_one(self, self.phrases)
        return Terms(self, {}, self.gate(), towards=True)

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        """Safe embeddings for the rows whose gate is open, for as many steps as the schedule gives them."""
        rows = opened(self, conditions)
        if not rows:
            return
        if conditions.moment.call == 0 or len(self._readings) > 256:
            self._readings.clear()
            self._safe.clear()
        acted = bool(self._project(conditions, rows)) if self.settings.projection else False
        if self.settings.negative_prompt:
            self._steer(conditions, rows)
            acted = True
        if acted:
            self.act.steps.append(conditions.moment.call)

    def _project(self, conditions: Conditions, rows: list[int]) -> list[int]:
        """Changes the rows whose prompts have triggers and whose steps are not over; gives these rows."""
        self._see(conditions.embeds)
        keys: dict[int, Prompt] = {row: conditions.prompts[row] for row in rows}  # type: ignore[misc]
        self._read([key for key in dict.fromkeys(keys.values()) if key not in self._readings])
        named = [row for row in rows if self._readings[keys[row]].words]
        if not self.settings.negative_prompt:
            for row in set(rows) - set(named):
                self.act.gates[row] = 0.0  # the receipt tells of open gates only where something was done
        if not named:
            return []
        safe = self._safe_for(conditions, named, tuple(keys[row] for row in named))
        if not self.settings.negative_prompt:
            for row in [row for row, until in zip(named, safe.until) if until == 0]:
                self.act.gates[row] = 0.0
        step = conditions.moment.step
        now = [i for i, until in enumerate(safe.until) if until is None or step < until]
        if now:
            changed = [named[i] for i in now]
            if self.settings.reattention:
                reattend(conditions, changed, self.settings.s1, self.settings.s2)
            conditions.change(changed, safe.embeds[now], None if safe.pooled is None else safe.pooled[now])
        if step == 0:
            for row, until in zip(named, safe.until):
                words = ", ".join(repr(word) for word in self._readings[keys[row]].words)
                steps = "projected in every step" if until is None else f"projected in at most {until} steps"
                if until == 0:
                    steps = "not projected: the schedule gives it no step; measure one with `conceptguard make safree`"
                self._note(f"trigger {words} in {conditions.texts[row]!r}, {steps}")
        return now

    def _see(self, embeds: Tensor) -> None:
        """Read texts padded, and cut, as this call has them: the T5 of FLUX and Stable Diffusion 3 sees that."""
        changed = [encoder.sees(embeds[:, encoder.tokens].shape[1]) for encoder in self._encoders]
        if any(changed):
            self._readings.clear()
            self._safe.clear()
            self._concepts = [concept_subspaces(encoder, self.phrases) for encoder in self._encoders]

    def _note(self, note: str) -> None:
        if note not in self.act.notes:
            self.act.notes.append(note)

    def _read(self, prompts: Sequence[Prompt]) -> None:
        """Find the triggers of prompts, all at once for each encoder."""
        found = [_Reading([], []) for _ in prompts]
        settings = self.settings
        for encoder, concepts in zip(self._encoders, self._concepts):
            texts = [prompt[encoder.number] for prompt in prompts]
            read_by = read(
                encoder, concepts, texts, settings.alpha, settings.compat == "official", settings.positions == "all"
            )
            for reading, (parts, words) in zip(found, read_by):
                reading.parts.append(parts)
                reading.words += [word for word in words if word not in reading.words]
        self._readings.update(zip(prompts, found))

    def _safe_for(self, conditions: Conditions, rows: list[int], keys: tuple[Prompt, ...]) -> _Safe:
        """The safe embeddings of rows; made once, and again should another guard have changed what came in."""
        source = conditions.embeds[rows]
        pooled = None if conditions.pooled is None else conditions.pooled[rows]
        known = self._safe.get(keys)
        if known is not None and torch.equal(known.source, source):
            return known
        official = self.settings.compat == "official"
        gates = torch.tensor([self.act.gates[row] for row in rows], device=source.device).unsqueeze(1)
        strength = self.settings.scale * gates
        embeds = source.float().clone()
        pools = None if pooled is None else pooled.float().clone()
        taken = []
        for e, (encoder, concepts) in enumerate(zip(self._encoders, self._concepts)):
            parts = [self._readings[key].parts[e] for key in keys]
            if encoder.width is not None:
                lengths = [encoder.length(ids) for ids in encoder.ids([key[encoder.number] for key in keys])]
                own = embeds[:, encoder.tokens, encoder.width]
                change = of_states(encoder, concepts[0], [p[0] for p in parts], lengths, own, official)
                embeds[:, encoder.tokens, encoder.width] += strength.unsqueeze(-1) * change.difference
                taken.append(change.beta)
            if encoder.pooled is not None and pools is not None:
                own = pools[:, encoder.pooled]
                pools[:, encoder.pooled] += strength * of_pooled(concepts[-1], [p[-1] for p in parts], own, official)
        until: list[int | None] = [None] * len(rows)
        if self.settings.schedule:
            steps = safe_steps(torch.stack(taken).amax(0), self.settings.up_t, self.settings.t0, self.settings.k)
            until = [int(n) + official for n in steps.tolist()]  # the authors' loop counts from 0 and includes t'
        if known is not None:
            until = known.until
        safe = _Safe(source.clone(), embeds.to(source.dtype), None if pools is None else pools.to(source.dtype), until)
        self._safe[keys] = safe
        return safe

    def _steer(self, conditions: Conditions, rows: list[int]) -> None:
        """The concept joins the negative prompt of the rows."""
        against = conditions.away_from()
        for row in rows:
            other = against[row]
            if other is None and conditions.separate:
                raise GuardError(
                    f"guard '{self.guard.label}': negative_prompt needs a prompt and its negative prompt in one call, "
                    "and this pipeline makes one for each: set negative_prompt: false, or use negative_guidance"
                )
            if other is None:
                raise GuardError(
                    f"guard '{self.guard.label}': negative_prompt needs classifier-free guidance, and "
                    f"{conditions.unguided}, or negative_prompt: false"
                )
            own = conditions.texts[other]
            if own is None:
                raise GuardError(
                    f"guard '{self.guard.label}': the negative prompt came as embeddings, which no phrase can join: "
                    "give it as text, or set negative_prompt: false"
                )
            key = own, self.host.encoding
            if key not in self._negative:
                self._negative[key] = self.host.encode_negative([as_one(self, self.phrases, own)])
            new = self._negative[key]
            embeds = self.host.lengthened(new.embeds, conditions.embeds.shape[1])
            conditions.change([other], embeds, new.pooled)
            self._note(f"{', '.join(self.phrases)!r} in the negative prompt of {conditions.texts[row]!r}")
