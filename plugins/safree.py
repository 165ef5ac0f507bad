"""SAFREE: takes the concept out of a prompt's embeddings, where and as long as the prompt needs it. No training.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation", ICLR 2025. The
published figures also pass the concept as negative prompt; here that is a switch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation import Conditions, Encoded
from conceptguard.hookspecs import hookimpl
from conceptguard.lowrank import LayerIndex, Terms
from conceptguard.method import Method, Settings

from .concept_phrases import as_one, as_windows, phrases_of
from .safree_math import basis, beta, distances, projected, safe_steps, triggers
from .safree_official import side_by_side

_ROWS = 512  # sequences per encoder call: 30 prompts of ordinary length, and bounded memory for longer ones


class SAFREESettings(Settings):
    """projection: take the concept out of trigger tokens
    schedule: the self-validating filter: for the first steps only, the more the projection takes the longer
    negative_prompt: guide away from the concept's phrases, beside the caller's own negative prompt
    positions: "triggers", as the paper does, or "all": also the end token and the padding, into which CLIP writes most
    of what a prompt says
    compat: "paper", or "official" for the order of projections, the tokens and the last step of the authors' code
    alpha: how much farther from the concept the prompt must be without a token, to call it a trigger
    up_t, t0, k: most steps, midpoint and steepness of the schedule; the authors' for nudity (artists: t0 5.5, k 3.5)
    """

    projection: bool = True
    schedule: bool = True
    negative_prompt: bool = False
    positions: Literal["triggers", "all"] = "triggers"
    compat: Literal["paper", "official"] = "paper"
    alpha: float = Field(default=0.01, ge=0)
    up_t: int = Field(default=10, ge=0)
    t0: float = 5.333
    k: float = 2.5


@dataclass
class _Prompt:
    """What is known of one prompt.

    inputs: per vector space the subspace of its masked encodings [n, width]; tokens: per space the trigger positions
    (bool [window + 2]); words: the trigger tokens
    """

    inputs: list[Tensor]
    tokens: list[Tensor]
    words: list[str]


@dataclass
class _Safe:
    """Rows of embeddings as they came, their safe counterparts, and from which step on each is the original again."""

    source: Tensor
    embeds: Tensor
    pooled: Tensor | None
    until: list[int | None]


class SAFREE(Method):
    """Training-free: a policy names a concept and its phrases."""

    name = "safree"
    needs = "concept"
    Settings = SAFREESettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not (self.settings.projection or self.settings.negative_prompt):
            raise PolicyError(
                f"guard '{self.guard.label}': projection and negative_prompt are both off, so nothing would be guarded"
            )
        if not hasattr(self.host, "encode_ids"):
            raise PolicyError(f"guard '{self.guard.label}': {self.host.name} cannot encode token ids, as safree must")
        self.phrases = phrases_of(self)
        self._prompts: dict[tuple[int, ...], _Prompt] = {}
        self._safe: dict[tuple[tuple[int, ...], ...], _Safe] = {}
        self._negative: dict[str, Encoded] = {}

    @classmethod
    def peers(cls) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
        """The projection of 32 prompts by 17 phrases at the width of Stable Diffusion 1.5."""
        return {"official projection": side_by_side()}

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms; at attach, the concept's subspaces. The gate is the policy's, ``gate: always`` is the paper's."""
        ids = as_windows(self.host, self.phrases)
        self._concepts = [basis(space[:, 0]) for space in self._spaces([[i] for i in ids])]
        for concept in self._concepts:
            rank, width = int(concept.any(-1).sum()), concept.shape[-1]
            if rank >= width - 1:  # a layer norm takes one dimension
                raise PolicyError(
                    f"guard '{self.guard.label}': {len(ids)} phrases span all {width} dimensions of the text encoder, "
                    "so nothing of any prompt would be left: give fewer phrases"
                )
        if self.settings.negative_prompt:
            as_one(self, self.phrases)
        return Terms(self, {}, self.gate(), towards=True)

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        """Safe embeddings for the rows whose gate is open, for as many steps as the schedule gives them."""
        rows = [row for row in conditions.towards if self.act.gates[row]]
        if not rows:
            return
        if any(conditions.ids[row] is None for row in rows):
            raise GuardError(
                f"guard '{self.guard.label}' reads the words of a prompt, and a condition came as embeddings that were "
                "not encoded under it: give texts, or encode with the pipeline's encode_prompt after attaching"
            )
        if conditions.moment.call == 0 or len(self._prompts) > 256:
            self._prompts.clear()
            self._safe.clear()
        acted = bool(self._project(conditions, rows)) if self.settings.projection else False
        if self.settings.negative_prompt:
            self._steer(conditions, rows)
            acted = True
        if acted:
            self.act.steps.append(conditions.moment.call)

    def _project(self, conditions: Conditions, rows: list[int]) -> list[int]:
        """Changes the rows whose prompts have triggers and whose steps are not over; gives these rows."""
        keys = {row: tuple(conditions.ids[row] or ()) for row in rows}
        self._read([key for key in dict.fromkeys(keys.values()) if key not in self._prompts])
        named = [row for row in rows if self._prompts[keys[row]].words]
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
            conditions.change(changed, safe.embeds[now], None if safe.pooled is None else safe.pooled[now])
        if step == 0:
            for row, until in [(row, until) for row, until in zip(named, safe.until) if until != 0]:
                steps = "in every step" if until is None else f"in at most {until} steps"
                words = ", ".join(repr(word) for word in self._prompts[keys[row]].words)
                self._note(f"trigger {words} in {conditions.texts[row]!r}, projected {steps}")
        return now

    def _note(self, note: str) -> None:
        if note not in self.act.notes:
            self.act.notes.append(note)

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Find the triggers of prompts (token ids), all at once."""
        official = self.settings.compat == "official"
        for empty in [p for p in prompts if not p]:
            self._prompts[empty] = _Prompt([], [], [])
        prompts = [p for p in prompts if p]
        if not prompts:
            return
        # A word that stands twice hides itself if only one of the two is masked, so equal tokens go together.
        groups = [[[i] for i in range(len(p))] if official else _groups(p) for p in prompts]
        variants = [
            [[0 if i in group else token for i, token in enumerate(p)] for group in own] + [list(p)]
            for p, own in zip(prompts, groups)
        ]
        real = torch.arange(max(map(len, groups))) < torch.tensor([[len(own)] for own in groups])
        inputs, found = [], []
        for space, concept in zip(self._spaces(variants), self._concepts):
            unmasked = torch.stack([v[len(own)] for v, own in zip(space, groups)])
            mask = real.to(space.device)
            masked = space[:, : mask.shape[1]] * mask.unsqueeze(-1)
            whole = None if official else distances(unmasked.unsqueeze(1), concept)[:, 0]
            found.append(triggers(distances(masked, concept), mask, self.settings.alpha, whole).cpu())
            inputs.append(basis(masked))
        for p, prompt in enumerate(prompts):
            tokens, carriers = [], set()
            for trigger in found:
                position = torch.zeros(self.host.window + 2, dtype=torch.bool)
                for g in trigger[p].nonzero()[:, 0].tolist():
                    position[[1 + i for i in groups[p][g]]] = True
                    carriers.add(prompt[groups[p][g][0]])
                if self.settings.positions == "all" and position.any():
                    position[1 + len(prompt) :] = True
                tokens.append(position)
            words = self.host.words([token for token in dict.fromkeys(prompt) if token in carriers])
            self._prompts[prompt] = _Prompt([space[p] for space in inputs], tokens, words)

    def _spaces(self, sequences: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
        """Sequences of token ids, some per prompt, as vectors in each encoder's space: [prompts, most, width], padded.

        An encoder's vector of a text is its state at the end token, in the layer that the denoiser reads; a pooled
        vector that the denoiser reads too is a space of its own, the last one.
        """
        flat = [ids for own in sequences for ids in own]
        parts = [self.host.encode_ids(flat[i : i + _ROWS]) for i in range(0, len(flat), _ROWS)]
        ends = torch.cat([e.embeds[range(len(e.ids)), [len(ids) + 1 for ids in e.ids]] for e in parts]).float()
        spaces = list(ends.split(self.host.widths, dim=-1))
        if parts[0].pooled is not None:
            spaces.append(torch.cat([e.pooled for e in parts]).float())  # type: ignore[misc]
        counts = [len(own) for own in sequences]
        return [torch.nn.utils.rnn.pad_sequence(list(s.split(counts)), batch_first=True) for s in spaces]

    def _safe_for(self, conditions: Conditions, rows: list[int], keys: tuple[tuple[int, ...], ...]) -> _Safe:
        """The safe embeddings of rows; made once, and again should another guard have changed what came in."""
        source = conditions.embeds[rows]
        pooled = None if conditions.pooled is None else conditions.pooled[rows]
        known = self._safe.get(keys)
        if known is not None and torch.equal(known.source, source):
            return known
        official = self.settings.compat == "official"
        prompts = [self._prompts[key] for key in keys]
        strength = torch.tensor([self.act.gates[row] for row in rows], device=source.device).view(-1, 1, 1)
        window = torch.arange(source.shape[1], device=source.device)
        attended = window < torch.tensor([[len(key) + 2] for key in keys], device=source.device)
        parts, taken = [], []
        widths = self.host.widths
        for s, embeds in enumerate(source.float().split(widths, dim=-1)):
            inputs = torch.nn.utils.rnn.pad_sequence([p.inputs[s] for p in prompts], batch_first=True).to(embeds)
            new = projected(embeds, inputs, self._concepts[s].to(embeds), official)
            taken.append(beta(embeds, new, attended))
            where = torch.stack([p.tokens[s] for p in prompts])[:, : source.shape[1]].to(source.device)
            parts.append(torch.where(where.unsqueeze(-1), embeds + strength * (new - embeds), embeds))
        if pooled is not None and len(self._concepts) > len(widths):
            own = pooled.float().unsqueeze(1)
            inputs = torch.nn.utils.rnn.pad_sequence([p.inputs[-1] for p in prompts], batch_first=True).to(own)
            new = projected(own, inputs, self._concepts[-1].to(own), official)
            where = torch.stack([p.tokens[-1].any() for p in prompts]).to(own.device).view(-1, 1, 1)
            pooled = torch.where(where, own + strength * (new - own), own)[:, 0].to(pooled.dtype)
        until: list[int | None] = [None] * len(rows)
        if self.settings.schedule:
            steps = safe_steps(torch.stack(taken).amax(0), self.settings.up_t, self.settings.t0, self.settings.k)
            until = [int(n) + official for n in steps.tolist()]  # the authors' loop counts from 0 and includes t'
        if known is not None:
            until = known.until
        self._safe[keys] = _Safe(source.clone(), torch.cat(parts, dim=-1).to(source.dtype), pooled, until)
        return self._safe[keys]

    def _steer(self, conditions: Conditions, rows: list[int]) -> None:
        """The concept joins the negative prompt of the rows."""
        against = conditions.away_from()
        for row in rows:
            other = against[row]
            if other is None:
                raise GuardError(
                    f"guard '{self.guard.label}': negative_prompt needs classifier-free guidance, and this generation "
                    "has none: set guidance_scale above 1, or negative_prompt: false"
                )
            own = conditions.texts[other]
            if own is None:
                raise GuardError(
                    f"guard '{self.guard.label}': the negative prompt came as embeddings, which no phrase can join: "
                    "give it as text, or set negative_prompt: false"
                )
            if own not in self._negative:
                self._negative[own] = self.host.encode([as_one(self, self.phrases, own)])
            new = self._negative[own]
            conditions.change([other], new.embeds, new.pooled)
            self._note(f"{', '.join(self.phrases)!r} in the negative prompt of {conditions.texts[row]!r}")


def _groups(ids: Sequence[int]) -> list[list[int]]:
    """Positions of each distinct token."""
    found: dict[int, list[int]] = {}
    for i, token in enumerate(ids):
        found.setdefault(token, []).append(i)
    return list(found.values())
