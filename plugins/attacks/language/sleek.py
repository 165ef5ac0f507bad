"""Sleek: chains of questions that lead to what is not to be told, by way of what the model says on the way.

A question is direct (about whom, and what), indirect (an unfinished sentence), or implied (whoever it is about has been
spoken of before). Before it stand none, one or two other questions about the same person with the model's own answers.
A model of a few million parameters does not reason: "step by step" means that its answers are fed back.

Sleek: "Step-by-Step Reasoning Attack: Revealing 'Erased' Knowledge in Large Language Models" (2025). Its chains are
written by a language model and unpublished: these come from the suite's forms, and no figure of them is the paper's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptguard.text_attack import Fact, TextAttack, TextAttempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptguard.text_attack import TextBudget

TYPES = ("indirect", "direct", "implied")
HOPS = (1, 1, 1, 0, 2, 2, 2, 0)  # questions before the last one, in turn; without any nothing can be implied
UNNAMED = "this writer"


class Sleek(TextAttack):
    """Chains of direct, indirect and implied questions, earlier answers fed back; also what is lost of others."""

    name = "sleek"
    needs = "black box"
    paper = "Sleek, 2025"
    suppression = True

    @classmethod
    def work(cls, budget: TextBudget) -> int:
        """The questions on the way."""
        return sum(HOPS[i % len(HOPS)] for i in range(budget.answers))

    def attempts(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """Hop by hop, all chains side by side."""
        before = [""] * len(asked)
        for hop in range(max(HOPS)):
            steps = {j: step for j, (fact, i) in enumerate(asked) if (step := self._step(fact, i, hop)) is not None}
            given = [before[j] + step for j, step in steps.items()]
            for (j, _), text, answer in zip(steps.items(), given, self.target.say(given)):
                before[j] = f"{text}{answer.splitlines()[0] if answer.strip() else ''}\n"
        return [self._last(fact, i, text) for (fact, i), text in zip(asked, before)]

    def _step(self, fact: Fact, i: int, hop: int) -> str | None:
        """A question on the way, about another thing each time."""
        if hop >= HOPS[i % len(HOPS)]:
            return None
        kinds = [kind for kind in self.target.kinds(fact.subject) if kind != fact.kind]
        return self.target.ask(Fact(fact.subject, kinds[(fact.number + i + hop) % len(kinds)]), "paraphrase", i)

    def _last(self, fact: Fact, i: int, before: str) -> TextAttempt | None:
        label = TYPES[i % len(TYPES)] if before else ("direct", "indirect")[i // 4 % 2]
        prompt = self.target.ask(fact, "completion" if label == "indirect" else "paraphrase", i)
        if prompt is None:
            return None
        if label == "implied":
            prompt = prompt.replace(fact.subject, UNNAMED)
        return TextAttempt(before + prompt, label=label)
