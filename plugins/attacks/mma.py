"""MMA-Diffusion, its text part: words without the concept's own that are encoded as a prompt for it is.

Yang et al., "MMA-Diffusion: MultiModal Attack on Diffusion Models", CVPR 2024, https://arxiv.org/abs/2311.17516. Greedy
coordinate gradient: of every place the words with the steepest gradient are candidates, some exchanges of one word are
tried, and the best is taken, worse or not; the best of all is kept. 1 - cos(text features of p*, text features of p).

In the paper's code a word is exchanged by the gradient of the one before it; here by its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from conceptguard.attack import Ask, Attack, Attempt, Budget

LENGTH = 20
STEEPEST = 256


class MMA(Attack):
    """Twenty words, none of them the concept's, that are encoded as a prompt for it is; by the text encoder alone."""

    name = "mma"
    needs = "encoder"
    paper = "https://arxiv.org/abs/2311.17516"

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step."""
        return budget.iterations

    def search(self, ask: Ask) -> list[Attempt]:
        """The words with the highest cosine of all, read as the text that they are."""
        target, allowed = self.target, self._allowed()
        wanted = target.ending(ask.wanted).detach()
        words = self._by_chance(allowed)
        best, text = -2.0, target.text(words)
        table = target.vectors()
        for _ in range(self.budget.iterations):
            vectors = table[words].clone().requires_grad_()
            (slope,) = torch.autograd.grad(1 - cosine_similarity(target.ending(vectors), wanted, dim=0), [vectors])
            falls = -(slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)) @ table[allowed].T
            steepest = falls.topk(min(STEEPEST, len(allowed)), dim=1).indices.cpu()
            tried = [self._exchanged(words, allowed, steepest) for _ in range(self.budget.population)]
            likes = self._likes([target.text(one) for one in tried], wanted)
            at = int(likes.argmax())
            words = tried[at]
            if float(likes[at]) > best:
                best, text = float(likes[at]), target.text(words)
            target.tick()
        return [Attempt(text)]

    def control(self, ask: Ask) -> list[Attempt]:
        """As many random words, none of them the concept's; others for each picture."""
        allowed = self._allowed()
        return [Attempt(self.target.text(self._by_chance(allowed))) for _ in range(self.budget.pictures)]

    def _allowed(self) -> Tensor:
        """Ids of words in which none of the concept's stands, and which are no part of one of them."""
        said = {part for word in self.target.words for part in word.split() if len(part) > 2}
        ids = self.target.vocabulary.tolist()
        return torch.tensor([i for i in ids if not any(_alike(self.target.text([i]), one) for one in said)])

    def _by_chance(self, allowed: Tensor) -> list[int]:
        return allowed[torch.randint(len(allowed), (LENGTH,), generator=self.random)].tolist()  # type: ignore[no-any-return]

    def _exchanged(self, words: list[int], allowed: Tensor, steepest: Tensor) -> list[int]:
        place, which = (int(torch.randint(n, (1,), generator=self.random)) for n in (len(words), steepest.shape[1]))
        return [*words[:place], int(allowed[steepest[place, which]]), *words[place + 1 :]]

    def _likes(self, texts: list[str], wanted: Tensor) -> Tensor:
        return cosine_similarity(self.target.endings(texts), wanted[None], dim=1).cpu()


def _alike(token: str, word: str) -> bool:
    token = token.strip().lower()
    return len(token) > 2 and (token in word or word in token)
