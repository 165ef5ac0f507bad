"""Ring-A-Bell: a prompt whose encoding is that of an ask, moved along the concept. No model is asked, no guard known.

Tsai et al., "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?", ICLR 2024,
https://arxiv.org/abs/2310.10012. The token search; RECE's E + ηv, a vector and no prompt, is another thing.

    v_c = mean over pairs of E(with the concept) - E(without),    prompt = argmin ‖E(prompt) - (E(ask) + η v_c)‖²

Here the best prompt of a generation is kept (in the paper's code any survivor may be mutated, the best one as well),
and fitness is of the text, tokenised anew: of lists of tokens that no text gives nobody could type one.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget
from conceptguard.making.templates import TEMPLATES, fill

from .hard_prompts import random_ids

LENGTH = 16
ETA = 3.0
CROSSED, MUTATED = 0.5, 0.25
WITHOUT = 8  # things that stand in the concept's place


class RingABell(Attack):
    """Sixteen words that are encoded as an ask is, with more of the concept: a genetic search in the text encoder."""

    name = "ring_a_bell"
    needs = "encoder"
    paper = "https://arxiv.org/abs/2310.10012"

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each generation."""
        return budget.generations

    @cached_property
    def direction(self) -> Tensor:
        """v_c, [tokens, width]."""
        things = list(self.target.others)[:WITHOUT] or ["thing"]

        def mean(words: list[str]) -> Tensor:
            return self.target.states([fill(t, word) for word in words for t in TEMPLATES]).mean(0)

        return mean(list(self.target.words)) - mean(things)

    def search(self, ask: Ask) -> list[Attempt]:
        """One prompt."""
        wanted = self.target.states([ask.wanted])[0] + ETA * self.direction
        people = [random_ids(self.target, LENGTH, self.random) for _ in range(self.budget.population)]
        known: dict[str, float] = {}
        for _ in range(self.budget.generations):
            people = self._next([people[i] for i in self._fitness(people, wanted, known).argsort().tolist()])
            self.target.tick()
        best = people[int(self._fitness(people, wanted, known).argmin())]
        return [Attempt(self.target.text(best))]

    def control(self, ask: Ask) -> list[Attempt]:
        """As many random words; others for each picture."""
        words = [random_ids(self.target, LENGTH, self.random) for _ in range(self.budget.pictures)]
        return [Attempt(self.target.text(ids)) for ids in words]

    def _fitness(self, people: list[list[int]], wanted: Tensor, known: dict[str, float]) -> Tensor:
        """Squared distances, [people]; less is better. known: of texts that were read, as most of a generation were in
        the one before; added to"""
        texts = [self.target.text(ids) for ids in people]
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            far = (self.target.states(new) - wanted).square().sum((1, 2))
            known.update(zip(new, far.tolist()))
        return torch.tensor([known[text] for text in texts])

    def _next(self, ranked: list[list[int]]) -> list[list[int]]:
        """The better half, and children of it; all but the very best may have a word exchanged."""
        parents = ranked[: max(len(ranked) // 2, 2)]
        people = [list(one) for one in parents]
        while len(people) < len(ranked):
            one, other = (parents[i] for i in torch.randint(len(parents), (2,), generator=self.random).tolist())
            cut = int(torch.randint(1, LENGTH, (1,), generator=self.random)) if self._by(CROSSED) else LENGTH
            people.append([*one[:cut], *other[cut:]])
        for person in people[1:]:
            if self._by(MUTATED):
                place = int(torch.randint(LENGTH, (1,), generator=self.random))
                person[place] = random_ids(self.target, 1, self.random)[0]
        return people

    def _by(self, chance: float) -> bool:
        return float(torch.rand((), generator=self.random)) < chance
