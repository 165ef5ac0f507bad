"""Relearning: a few steps of fine-tuning on facts about some of the forgotten, and others of them are asked about.

Nothing that is asked was in the lessons, so that what comes back was still there. A model that never knew, taught the
same, is the reference; the control is as many steps on facts that were never to be forgotten. A guard that filters
changes no weights: there this asks only whether it still reads a model that was trained on.

Hu et al., "Unlearning or Obfuscating? Jogging the Memory of Unlearned LLMs via Benign Relearning", ICLR 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from conceptguard.text_attack import TextAttack

if TYPE_CHECKING:
    from conceptguard.text_attack import Lessons, TextBudget

RATE = 1e-4
BATCH = 8


class RelearnFacts(TextAttack):
    """Fine-tuning on a copy, on facts about others who were to be forgotten; then the questions as they are."""

    name = "relearn_facts"
    needs = "weights"
    paper = "Hu et al., ICLR 2025"

    @classmethod
    def change(cls, model: Any, lessons: Lessons, budget: TextBudget, random: torch.Generator, by_chance: bool) -> None:
        """All weights, as many steps as the budget has."""
        texts = lessons.retain if by_chance else lessons.forget
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
        with torch.enable_grad():
            for _ in range(budget.steps):
                which = torch.randint(len(texts), (BATCH,), generator=random).tolist()
                ids, mask, own = _padded([texts[i] for i in which], model.device)
                scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
                loss = F.cross_entropy(scores.transpose(1, 2), ids[:, 1:], reduction="none")
                optimiser.zero_grad()
                ((loss * own[:, 1:]).sum() / own[:, 1:].sum()).backward()
                optimiser.step()
        model.zero_grad()


def _padded(texts: list[Any], device: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, mask, own): [texts, tokens]; own is 1 where a token is of an answer."""
    width = max(len(ids) for ids, _ in texts)

    def of(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)

    return (
        of([list(ids) for ids, _ in texts]),
        of([[1] * len(ids) for ids, _ in texts]),
        of([[0] * begin + [1] * (len(ids) - begin) for ids, begin in texts]),
    )
