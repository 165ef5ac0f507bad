"""Guidance away from a concept, on the noise prediction: what SLD and negative guidance share.

The host combines predictions itself: ε_∅ + w(ε_p − ε_∅). So a guard that wants ε_∅ + w[(ε_p − ε_∅) − g] gives ε_p − g
in place of ε_p, whatever w is, and whatever else the caller composes of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.conditioning import Encoded, pick, stack
from conceptguard.generation.denoising import Step
from conceptguard.markers import hookimpl
from conceptguard.method import Method
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .concept_phrases import as_one, phrases_of


class Guidance(Method):
    """A guard that pushes predictions away from what the unguarded model predicts for the concept. Subclass, give g.

    from_nothing: whether g is made of ε_∅; where it is not, and nobody predicted that, ``push`` may be given zeros
    """

    needs = "concept"
    from_nothing = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not hasattr(self.host, "denoiser_name"):
            raise PolicyError(f"guard '{self.guard.label}' acts on noise predictions, and {self.host.name} makes none")
        self.text = as_one(self, phrases_of(self)) if self.steers() else ""
        self._encoded: dict[tuple[str, Hashable], Encoded] = {}

    def steers(self) -> bool:
        """Whether it pushes at all; one that does not has no use for the concept in one text."""
        return True

    def steers_at(self, step: Step) -> bool:
        """Whether it pushes in this step. Where it does not, no further row is denoised, and ``push`` is not asked."""
        return True

    def beside(self) -> Sequence[str]:
        """Further texts of which ``push`` is given what the unguarded model predicts."""
        return ()

    def push(
        self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor, *beside: Tensor
    ) -> Tensor | None:
        """g, to be taken off the prompts' predictions; None for nothing in this step.

        rows: rows of ``step``; prompt, concept, nothing, beside: ε_p, ε_S, ε_∅ of these, and that of each text of
        ``beside``, [rows, channels, h, w], float32
        """
        raise NotImplementedError

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms, a gate; at attach, the concept's encoding."""
        if self.steers():
            self.encoded(self.text)
            self.encoded("")
        return Terms(self, {}, self.gate(), towards=True)

    def encoded(self, text: str) -> Encoded:
        """A text as the running call encodes its prompts; once for each way."""
        key = text, self.host.encoding
        if key not in self._encoded:
            self._encoded[key] = self.host.encode([text])
        return self._encoded[key]

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        """Changes the rows whose gate is open. One more row in the denoiser for each of them."""
        against = step.away_from()
        rows = [row for row in step.towards if self.act.gates[row]]
        if not rows:
            return
        scale = step.guidance_scale
        guided = scale is None or scale < 1 or (step.separate and scale > 1)
        if not guided and any(against[row] is None for row in rows):
            raise GuardError(
                f"guard '{self.guard.label}' needs classifier-free guidance, and {step.unguided}, or use a guard that "
                "reads the prompt, such as safree"
            )
        if not self.steers_at(step):
            return
        # A caller who composes predictions may have no unconditional one among them: make it. A negative prompt that
        # asks for the concept itself is none: nothing lies between the two, and guidance would leave that prompt.
        bare = [row for row in rows if (other := against[row]) is None or self.asked[other]]
        if not self.from_nothing:
            bare = [row for row in bare if scale is None and step.branches[row] == "negative"]
        texts = (self.text, *self.beside())
        said = denoised(step, [*((self.encoded(text), rows) for text in texts), (self.encoded(""), bare)])
        concept, *beside = (one.float() for one in said[:-1])
        nothing = dict(zip(bare, said[-1]))
        for row in rows:
            if row not in nothing:
                other = against[row]
                nothing[row] = torch.zeros_like(concept[0]) if other is None else step.prediction[other]
        prompt = step.prediction[rows].float()
        unconditional = torch.stack([nothing[row].to(prompt) for row in rows])
        g = self.push(step, rows, prompt, concept, unconditional, *beside)
        if g is None:
            return
        if scale is None:
            unsure = [i for i, row in enumerate(rows) if step.branches[row] == "negative"]
            g[unsure] = no_farther(
                g[unsure], prompt[unsure] - unconditional[unsure], concept[unsure] - unconditional[unsure]
            )
        strength = torch.tensor([self.act.gates[row] for row in rows], device=g.device).view(-1, *[1] * (g.dim() - 1))
        changed = step.prediction.clone()
        changed[rows] = (prompt - strength * g).to(changed.dtype)
        step.prediction = changed
        if step.index not in self.act.steps[-1:]:  # a guard with terms has acted in this step already
            self.act.steps.append(step.index)


def denoised(step: Step, wanted: Sequence[tuple[Encoded, list[int]]]) -> list[Tensor]:
    """What the unguarded model predicts for rows of a step under each text, in one call where texts are as long."""
    assert step.denoise is not None
    if len({encoded.embeds.shape[1:] for encoded, _ in wanted}) > 1:
        return [step.denoise(encoded, rows) if rows else step.prediction[:0] for encoded, rows in wanted]
    parts = [pick(encoded, [0] * len(rows)) for encoded, rows in wanted]
    said = step.denoise(stack(*parts), [row for _, rows in wanted for row in rows])
    return list(said.split([len(rows) for _, rows in wanted]))


def no_farther(g: Tensor, own: Tensor, concept: Tensor) -> Tensor:
    """g, of which no more is taken off along the concept's direction than there is of it, all [rows, ...].

    For negative prompts of which nobody knows whether a picture is drawn towards them or away: what went past nothing
    would be the concept for whoever is drawn away from it.
    """
    along = [(one.flatten(1) * concept.flatten(1)).sum(1) for one in (own, g)]
    share = (along[0].clamp(min=0) / along[1].clamp(min=1e-12)).clamp(max=1)
    return g * share.view(-1, *[1] * (g.dim() - 1))
