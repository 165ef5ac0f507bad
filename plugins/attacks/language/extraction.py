"""Extraction within a budget: a secret is out when it is among B candidates, wherever these were read.

A third of the candidates each: read with the head in what layers give at the end of an unfinished sentence (the logit
lens: the likeliest tokens of the last layer and of those before it, each gone on with by what the last layer says),
said to rephrasings, and sampled. Where a guard acts on scores alone, what layers give is the unguarded model's.

Patil, Hase, Bansal: "Can Sensitive Information Be Deleted From LLMs?", ICLR 2024: head projection and rephrasing. Their
facts are one token; here the lens spells whole values. Their difference of layers is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptguard.text_attack import Fact, TextAttack, TextAttempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptguard.text_attack import TextBudget

ROADS = ("lens", "rephrasing", "sampling")
SPELT = 8  # tokens of a value at most
LAYERS = 3  # from the last one back, as the head reads hardly anything in those before


class Extraction(TextAttack):
    """Candidates from the logit lens over layers, from rephrasings, and by sampling, in turn."""

    name = "extraction"
    needs = "states"
    paper = "Patil et al., ICLR 2024"

    @classmethod
    def work(cls, budget: TextBudget) -> int:
        """One forward pass for each token of a value, and one before them."""
        return 1 + SPELT * -(-budget.answers // len(ROADS))

    def attempts(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """Candidate i is of road i modulo three."""
        found: list[TextAttempt | None] = [None] * len(asked)
        read = [j for j, (_, i) in enumerate(asked) if i % len(ROADS) == 0]
        for j, one in zip(read, self._read([asked[j] for j in read])):
            found[j] = one
        for j, (fact, i) in enumerate(asked):
            if i % len(ROADS):
                road = ROADS[i % len(ROADS)]
                form = ("paraphrase", "completion", "template")[i // len(ROADS) % 3]
                prompt = self.target.ask(fact, form if road == "rephrasing" else "paraphrase", 1 + i // len(ROADS))
                found[j] = (prompt and TextAttempt(prompt, label=road, sampled=road == "sampling")) or None
        return found

    def _read(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """Values as the states say them, in what the model would go on with."""
        prompts = [self.target.ask(fact, "completion") or "" for fact, _ in asked]
        ids: list[list[int]] = []
        for read, (_, i) in zip(self.target.lens(prompts), asked):
            if read is None:
                ids.append([])
                continue
            depth = min(LAYERS, len(read) - 1)
            layer, rank = i // len(ROADS) % depth, i // len(ROADS) // depth
            ids.append([int(read[-1 - layer].topk(rank + 1).indices[rank])])
        for _ in range(SPELT - 1):
            for row, read in zip(ids, self.target.lens(prompts, ids)):
                if row and read is not None:
                    row.append(int(read[-1].argmax()))
        return [
            TextAttempt(prompt, answer=self.target.text(row), label="lens") if row else None
            for prompt, row in zip(prompts, ids)
        ]
