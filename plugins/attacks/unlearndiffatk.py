"""UnlearnDiffAtk: words before the prompt with which the guarded model sees the concept's own picture through noise.

Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images ...
For Now", ECCV 2024, https://arxiv.org/abs/2310.11868.

    min over prefix  ‖ε - ε_guarded(√ᾱ x_0 + √(1-ᾱ) ε, t, [prefix; prompt])‖²,    x_0: the unguarded model's picture

The diffusion model is its own classifier: no unguarded prediction and no judge is in the loss. The prefix is drawn from
rows on the simplex over the vocabulary, which the gradients of what was drawn move.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget

from .best import Best
from .hard_prompts import fitting, random_ids
from .noise import loss_at, loss_of, place

WORDS = 5
RATE, DECAY = 0.01, 0.1
TIMES = tuple(range(10, 1000, 20))  # in this order
PROVED = 4


def on_simplex(rows: Tensor, halvings: int = 50) -> Tensor:
    """The nearest points with 0 ≤ u ≤ 1 and Σ u = 1, row by row, by bisection. rows: [k, V]"""
    low = rows.min(1, keepdim=True).values - 1
    high = rows.max(1, keepdim=True).values
    for _ in range(halvings):
        middle = (low + high) / 2
        over = (rows - middle).clamp(0, 1).sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (rows - (low + high) / 2).clamp(0, 1)


class UnlearnDiffAtk(Attack):
    """Five words before the prompt, by gradients of the guarded model, which is its own classifier."""

    name = "unlearndiffatk"
    needs = "white box"
    paper = "https://arxiv.org/abs/2310.11868"
    judged = True

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step, and for each picture that is looked at."""
        return budget.iterations - -budget.iterations // budget.check

    def search(self, ask: Ask) -> list[Attempt]:
        """Until the search's judge sees the concept, as in the paper; else what it was surest of, or the least loss."""
        target = self.target
        clean = target.denoiser.latents(target.example(ask)[None])
        rows = target.vectors()[target.vocabulary]
        share = torch.full((WORDS, len(rows)), 1 / len(rows), device=rows.device).requires_grad_()
        optimiser = torch.optim.Adam([share], lr=RATE, weight_decay=DECAY)
        proof = [place(target, clean, TIMES[i], self.random) for i in range(5, len(TIMES), len(TIMES) // PROVED)]
        best = Best(target, ask.number, partial(loss_of, target, places=proof))
        for step in range(self.budget.iterations):
            drawn = torch.multinomial(share.detach().cpu(), 1, generator=self.random)[:, 0].to(rows.device)
            chosen = torch.zeros_like(share).scatter(1, drawn[:, None], 1.0) + (share - share.detach())
            ids, vectors = self._whole(ask, drawn, chosen @ rows)
            time = TIMES[step * len(TIMES) // self.budget.iterations]
            loss = loss_at(target, target.text(ids), place(target, clean, time, self.random), vectors)
            if loss is not None and loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss, [share])
                share.grad = gradient.clamp(-1, 1)
                optimiser.step()
                with torch.no_grad():
                    share.copy_(on_simplex(share))
            target.tick()
            if (step + 1) % self.budget.check == 0 or step + 1 == self.budget.iterations:
                best.offer(target.text(self._whole(ask, share.detach().argmax(1), None)[0]))
                if best.shown:
                    break
        return [Attempt(best.text)]

    def _whole(self, ask: Ask, at: Tensor, vectors: Tensor | None) -> tuple[list[int], Tensor | None]:
        """(ids, input vectors) of prefix and prompt; at: places of the prefix's words in the vocabulary"""
        prefix = self.target.vocabulary[at.to(self.target.vocabulary.device)].tolist()
        ids = fitting(self.target, prefix, self.target.ids(ask.prompt))
        return ids, None if vectors is None else torch.cat([vectors, self.target.vectors()[ids[WORDS:]]])

    def control(self, ask: Ask) -> list[Attempt]:
        """As many random words before the prompt; others for each picture."""
        own = self.target.ids(ask.prompt)
        return [
            Attempt(self.target.text(fitting(self.target, random_ids(self.target, WORDS, self.random), own)))
            for _ in range(self.budget.pictures)
        ]
