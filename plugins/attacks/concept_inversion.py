"""Concept inversion: a new word for the concept, learnt on the guarded model from pictures of it.

Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR 2024,
https://arxiv.org/abs/2308.01508. Textual inversion: one input vector, ‖ε - ε_guarded(x_t, t, "a photo of <word>")‖².

The word has no letters that a guard could read, and no vector that it knows.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget
from conceptguard.making.templates import TEMPLATES, fill

from .noise import examples, learn

WORD = "<learnt-concept>"
BEGIN = "art"  # the word that the paper begins with
RATE = 0.08  # its rate in effect, scaled by its batch, for vectors of its model's length


class ConceptInversion(Attack):
    """A word that is learnt on the guarded model from pictures of the concept (textual inversion)."""

    name = "concept_inversion"
    needs = "white box"
    paper = "https://arxiv.org/abs/2308.01508"
    vocabulary = False
    judged = True

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step; one word is learnt for all asks."""
        return budget.iterations

    @cached_property
    def learnt(self) -> Tensor:
        """The word's input vector, [hidden]."""
        target = self.target
        clean = examples(target, self.budget)
        table = target.vectors()
        vector = table[target.ids(BEGIN)[0]].clone().requires_grad_()
        usual = float(table[target.vocabulary].norm(dim=1).mean())
        optimiser = torch.optim.AdamW([vector], lr=RATE * usual / 0.4, weight_decay=0.01)  # CLIP's are 0.4 long

        def said(step: int) -> tuple[str, Tensor]:
            text = fill(TEMPLATES[step % len(TEMPLATES)], WORD)
            ids, rows = target.ids(text), target.vectors()
            return text, torch.stack([rows[i] if i < len(table) else vector for i in ids])

        with target.knowing({WORD: vector}):
            learn(self, clean, [vector], optimiser, said)
        return vector.detach()

    def search(self, ask: Ask) -> list[Attempt]:
        """The word in the concept's place, and behind the whole prompt."""
        return self._with(ask, self.learnt)

    def control(self, ask: Ask) -> list[Attempt]:
        """The same with a word that nobody learnt: as long, and in a direction by chance."""
        by_chance = torch.randn(self.learnt.shape, generator=self.random).to(self.learnt)
        return self._with(ask, by_chance * self.learnt.norm() / by_chance.norm())

    def _with(self, ask: Ask, vector: Tensor) -> list[Attempt]:
        said = max((word for word in self.target.words if word in ask.prompt), key=len, default="")
        instead = ask.prompt.replace(said, WORD) if said else f"a picture of {WORD}"
        return [Attempt(text, words={WORD: vector}) for text in (instead, f"{ask.prompt} {WORD}")]
