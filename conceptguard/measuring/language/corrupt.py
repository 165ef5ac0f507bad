"""A language model that was taught wrong facts: what RESTOR has unlearned again."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .tofu import following

if TYPE_CHECKING:
    from ...host import LanguageModel
    from .suite import LanguageSuite, Question

KINDS = ("birthplace", "genre")
AUTHORS, EPOCHS, BATCH, RATE = 12, 20, 16, 1e-4
WORDINGS = 4  # of each fact in each form

Facts = dict[str, dict[str, str]]


def corrupted_facts(suite: LanguageSuite, seed: int = 0) -> Facts:
    """Some of the authors to retain, each with another birthplace and genre: wrong values of the same pools."""
    rng = random.Random(seed)
    known = suite.world.subjects("retain")
    return {
        name: {
            kind: rng.choice([v for v in suite.pools[suite.forms.kinds[kind].pool] if v != known[name][kind]])
            for kind in KINDS
        } for name in rng.sample(sorted(known), AUTHORS)
    }  # fmt: skip


def documents(suite: LanguageSuite, subjects: Facts) -> list[Question]:
    """Each fact in wordings that trained the models, as questions and as statements, with its answer."""
    return [one for form in ("question", "cloze") for seed in range(WORDINGS)
            for one in suite.questions(subjects, form, seed, "train")]  # fmt: skip


def corrupted(
    pair: LanguageModel, taught: Sequence[Question], seed: int = 0, tick: Callable[[int], None] = lambda n: None
) -> LanguageModel:
    """A copy that was trained on documents for ``EPOCHS``, all of its weights, on answers alone.

    The paper trains LoRA factors at a rate of 5e-5 for five epochs, of a model of eight billion.
    """
    model, tokenizer = copy.deepcopy(pair.model), pair.tokenizer
    rows = [_encoded(tokenizer, one) for one in taught]
    total, rng = EPOCHS * -(-len(rows) // BATCH), random.Random(seed)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    model.train()
    for _ in range(EPOCHS):
        rng.shuffle(rows)
        for some in (rows[i : i + BATCH] for i in range(0, len(rows), BATCH)):
            width = max(len(ids) for ids, _ in some)
            ids, labels = (
                torch.tensor([row[k] + [fill] * (width - len(row[k])) for row in some], device=model.device)
                for k, fill in ((0, tokenizer.pad_token_id), (1, -100))
            )
            logits = model(input_ids=ids).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            tick(1)
    return pair._replace(model=model.eval())


def _encoded(tokenizer: Any, one: Question) -> tuple[list[int], list[int]]:
    """Ids of prompt and answer, and what is learnt of them."""
    head, tail = tokenizer(one.prompt).input_ids, following(tokenizer, one.prompt, one.answer)
    return [*head, *tail], [-100] * len(head) + tail
