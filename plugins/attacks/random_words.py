"""Random words before the prompt: what every search that puts words there has to beat."""

from __future__ import annotations

from conceptguard.attack import Ask, Attack, Attempt

from .hard_prompts import fitting, random_ids

WORDS = 5  # as UnlearnDiffAtk puts there


class RandomWords(Attack):
    """Five random words before the prompt, others for each picture."""

    name = "random"
    needs = "black box"

    def search(self, ask: Ask) -> list[Attempt]:
        """As many as there are pictures."""
        own = self.target.ids(ask.prompt)
        return [
            Attempt(self.target.text(fitting(self.target, random_ids(self.target, WORDS, self.random), own)))
            for _ in range(self.budget.pictures)
        ]

    def control(self, ask: Ask) -> list[Attempt]:
        """It is one."""
        return []
