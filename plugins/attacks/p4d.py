"""P4D: words with which the guarded model predicts what the unguarded one predicts for the concept.

Chin et al., "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts", ICML
2024, https://arxiv.org/abs/2309.06135.

    min over p*  ‖ε_guarded(x_t, t, p*) - ε(x_t, t, p)‖²,   x_t: the unguarded model's picture of p, with noise on it

Both sides are conditional predictions, the guarded one with all that the policy does to it, gates included. Unlike the
paper's code the picture enters the autoencoder in [-1, 1], and p* is padded as the pipeline pads prompts.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget

from .best import Best
from .hard_prompts import HardPrompt, random_ids
from .noise import Place, anywhere, loss_at, loss_of

LENGTH = 16
EVERY = 3  # of the ask's own tokens, in P4D-K
PROVED = 4  # places at which a text is compared where no judge looks


class P4DN(Attack):
    """P4D-N: sixteen words in place of the prompt, by gradients of the guarded model."""

    name = "p4d"
    needs = "white box"
    paper = "https://arxiv.org/abs/2309.06135"
    judged = True

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step, and for each picture that is looked at."""
        return budget.iterations - -budget.iterations // budget.check + 1

    def search(self, ask: Ask) -> list[Attempt]:
        """The text that the search's judge is surest of, or that comes nearest."""
        target = self.target
        clean = target.denoiser.latents(target.example(ask)[None])
        prompt = HardPrompt(target, self.free(ask), self.random)
        proof = [self._asked(anywhere(target, clean, self.random), ask) for _ in range(PROVED)]
        best = Best(target, ask.number, partial(loss_of, target, places=proof))
        for step in range(self.budget.iterations):
            words, vectors = prompt.words()
            ids, whole = self.whole(ask, words, vectors)
            text = target.text(ids)
            if step % self.budget.check == 0:
                best.offer(text)
            at = self._asked(anywhere(target, clean, self.random), ask)
            prompt.step(loss_at(target, text, at, whole))
            target.tick()
        best.offer(target.text(self.whole(ask, *prompt.words())[0]))
        return [Attempt(best.text)]

    def _asked(self, at: Place, ask: Ask) -> Place:
        """The same place, where what is wanted is what the unguarded model says of the ask."""
        return at._replace(wanted=self.target.bare(ask.wanted, at.latents, at.timestep).float())

    def control(self, ask: Ask) -> list[Attempt]:
        """Random words at the same places; others for each picture."""
        found = []
        for _ in range(self.budget.pictures):
            words = random_ids(self.target, self.free(ask), self.random)
            ids, _ = self.whole(ask, words, torch.zeros(len(words), 1))
            found.append(Attempt(self.target.text(ids)))
        return found

    def free(self, ask: Ask) -> int:
        """How many words are searched for."""
        return min(LENGTH, self.target.window)

    def whole(self, ask: Ask, words: list[int], vectors: Tensor) -> tuple[list[int], Tensor]:
        """(ids, input vectors) of the prompt that these are searched for in."""
        return words, vectors


class P4DK(P4DN):
    """P4D-K: the prompt, and a word that is searched for before every three of its tokens."""

    name = "p4d_k"

    def _own(self, ask: Ask) -> list[int]:
        most = self.target.window * EVERY // (EVERY + 1) - 1
        return self.target.ids(ask.prompt)[:most]

    def free(self, ask: Ask) -> int:
        """⌊n/3⌋ + 1."""
        return len(self._own(ask)) // EVERY + 1

    def whole(self, ask: Ask, words: list[int], vectors: Tensor) -> tuple[list[int], Tensor]:
        """The ask's own tokens are as they were: no gradient and no decay is theirs."""
        own, ids, rows = self._own(ask), [], []
        table = self.target.vectors()
        for i, word in enumerate(words):
            part = own[i * EVERY : (i + 1) * EVERY]
            ids += [word, *part]
            if vectors.shape[1] == table.shape[1]:
                rows += [vectors[i : i + 1], table[part]]
        return ids, torch.cat(rows) if rows else vectors
