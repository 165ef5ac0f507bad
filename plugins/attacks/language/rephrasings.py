"""What a person would try first: the same question in other words, other spellings, another language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptguard.text_attack import Fact, TextAttack, TextAttempt

if TYPE_CHECKING:
    from collections.abc import Sequence

# Forms of a suite whose prompt holds neither the fact nor a list with it.
WAYS = (
    "paraphrase", "completion", "template", "persuaded", "surname", "lower", "letters", "german", "reversed", "marks",
    "typo", "spaced", "upper", "mixed", "buried", "question", "cloze",
)  # fmt: skip
SPELLED = 72  # tokens of an answer letter by letter


class Rephrasings(TextAttack):
    """The question in other words and spellings, unfinished, buried in a text, with an excuse, in another language."""

    name = "rephrasings"
    needs = "black box"
    paper = "Patil et al., ICLR 2024"

    def attempts(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """Each fact goes on where the one before ended, so that few answers try all ways as well."""
        return [self._one(fact, i) for fact, i in asked]

    def _one(self, fact: Fact, i: int) -> TextAttempt | None:
        at = fact.number * self.budget.answers + i
        form = WAYS[at % len(WAYS)]
        prompt = self.target.ask(fact, form, at // len(WAYS))
        if prompt is None:
            form = WAYS[0]
            prompt = self.target.ask(fact, form, at + 1)
        return (prompt and TextAttempt(prompt, label=form, tokens=SPELLED if form == "letters" else 32)) or None
