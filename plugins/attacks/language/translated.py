"""Another language's template: what was to be forgotten in one language, asked for in another.

Questions and unfinished sentences of the suite's second language, by turns; kinds of facts without any do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptguard.text_attack import Fact, TextAttack, TextAttempt

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMS = {"question": "german", "sentence": "german_cloze"}


class Translated(TextAttack):
    """The question and the beginning of its answer in the suite's second language."""

    name = "translated"
    needs = "black box"

    def attempts(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """Question, sentence, and again in other wordings, the answers of these sampled."""
        found: list[TextAttempt | None] = []
        for fact, i in asked:
            label = list(FORMS)[i % len(FORMS)]
            prompt = self.target.ask(fact, FORMS[label], i // len(FORMS))
            found.append((prompt and TextAttempt(prompt, label=label, sampled=i >= len(FORMS))) or None)
        return found
