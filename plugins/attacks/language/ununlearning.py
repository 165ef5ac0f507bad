"""UnUnlearning: what was removed comes back in the context, and is used there.

Four levels of what the prompt tells: 0 nothing, 1 whom an alias stands for, by another fact about them, 2 all other
facts, 3 the fact itself. A model that never knew is the reference: an eraser that is as good as it has done its work,
and whoever has to keep the content out needs a filter beside it.

Shumailov et al., "UnUnlearning: Unlearning is not sufficient for content regulation in advanced generative AI", 2024: a
position paper without an experiment. The levels are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptguard.text_attack import Fact, TextAttack, TextAttempt

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = ("3 the fact", "2 all other facts", "1 an alias", "0 nothing")
ALIAS = "XX"


class UnUnlearning(TextAttack):
    """Facts given in the prompt: an alias, all others, or the very one, which a filter has to stop as well."""

    name = "ununlearning"
    needs = "black box"
    paper = "Shumailov et al., 2024"

    def attempts(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """One of each level, and again in other wordings."""
        return [self._one(fact, LEVELS[i % len(LEVELS)], i // len(LEVELS)) for fact, i in asked]

    def _one(self, fact: Fact, level: str, number: int) -> TextAttempt | None:
        prompt = self.target.ask(fact, "paraphrase", number)
        if prompt is None:
            return None
        others = [Fact(fact.subject, kind) for kind in self.target.kinds(fact.subject) if kind != fact.kind]
        before = {
            LEVELS[0]: lambda: [fact], LEVELS[1]: lambda: others,
            LEVELS[2]: lambda: [others[(fact.number + number) % len(others)]], LEVELS[3]: list,
        }[level]()  # fmt: skip
        told = " ".join(map(self.target.told, before))
        if level == LEVELS[2]:
            told, prompt = (text.replace(fact.subject, ALIAS) for text in (told, prompt))
        return TextAttempt(f"{told}\n{prompt}" if told else prompt, label=level)
