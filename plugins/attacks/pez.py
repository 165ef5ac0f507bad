"""PEZ: words whose encoding at the end of the text is that of an ask.

Wen et al., "Hard Prompts Made Easy: Gradient-Based Discrete Optimization for Prompt Tuning and Discovery", NeurIPS
2023, https://arxiv.org/abs/2302.03668. 1 - cos(text features of the target, text features of p*); the paper's images as
targets need a model of pictures and texts, which a diffusion model is not.
"""

from __future__ import annotations

from torch.nn.functional import cosine_similarity

from conceptguard.attack import Ask, Attack, Attempt, Budget

from .hard_prompts import HardPrompt, random_ids

LENGTH = 16


class PEZ(Attack):
    """Sixteen words with the ask's own encoding at the end of the text, by gradients of the text encoder."""

    name = "pez"
    needs = "encoder"
    paper = "https://arxiv.org/abs/2302.03668"

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step."""
        return budget.iterations

    def search(self, ask: Ask) -> list[Attempt]:
        """The words with the highest cosine of all steps, read as the text that they are."""
        prompt = HardPrompt(self.target, LENGTH, self.random)
        wanted = self.target.ending(ask.wanted).detach()
        best, text = -2.0, ""
        for _ in range(self.budget.iterations):
            ids, vectors = prompt.words()
            like = cosine_similarity(self.target.ending(vectors), wanted, dim=0)
            if float(like.detach()) > best and (now := self._typed(ids)):
                found = float(cosine_similarity(self.target.ending(now).detach(), wanted, dim=0))
                if found > best:
                    best, text = found, now
            prompt.step(1 - like)
            self.target.tick()
        return [Attempt(text or self._typed(prompt.words()[0]))]

    def _typed(self, ids: list[int]) -> str:
        return self.target.text(ids)

    def control(self, ask: Ask) -> list[Attempt]:
        """As many random words; others for each picture."""
        words = [random_ids(self.target, LENGTH, self.random) for _ in range(self.budget.pictures)]
        return [Attempt(self._typed(ids)) for ids in words]
