"""Examples as token ids in batches, and how unlikely a model finds what follows their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.making.task import Learned

from .classifier.examples import EXAMPLES, Example
from .classifier.gate import learn_gate

if TYPE_CHECKING:
    from conceptguard.making.task import Task


class Batch(NamedTuple):
    """Some texts, padded on the right.

    ids, mask, own: [texts, tokens]; mask is 0 where padding is, own 1 where a token is of what is learnt
    which: the texts' numbers
    """

    ids: Tensor
    mask: Tensor
    own: Tensor
    which: list[int]

    @property
    def lengths(self) -> Tensor:
        """How many tokens of each are learnt, [texts]; the first of all follows nothing and is not."""
        return self.own[:, 1:].sum(1)


class Lessons:
    """Examples for one tokenizer. Of one with an answer that is learnt, and the token that ends it; of one without
    all its text.

    length: how many tokens of a text are kept
    """

    def __init__(self, tokenizer: Any, examples: Sequence[Example], length: int, device: torch.device):
        self._device, self._pad = device, tokenizer.pad_token_id or 0
        self._texts = [_encoded(tokenizer, one, length) for one in examples]

    def __len__(self) -> int:
        return len(self._texts)

    def batch(self, which: Sequence[int]) -> Batch:
        """Some of them by their numbers."""
        texts = [self._texts[i] for i in which]
        width = max(len(ids) for ids, _ in texts)

        def padded(rows: Sequence[list[int]], fill: int) -> Tensor:
            return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=self._device)

        ids = padded([ids for ids, _ in texts], self._pad)
        mask = padded([[1] * len(ids) for ids, _ in texts], 0)
        own = padded([[0] * begin + [1] * (len(ids) - begin) for ids, begin in texts], 0)
        return Batch(ids, mask, own, list(which))

    def draw(self, n: int, random: torch.Generator) -> Batch:
        """So many, each as likely as any other."""
        return self.batch(torch.randint(len(self), (n,), generator=random).tolist())


def whole(example: Example) -> str:
    """Prompt and answer as one text, a space between them where none is."""
    between = "" if not example.answer or example.prompt[-1:].isspace() or not example.prompt else " "
    return f"{example.prompt}{between}{example.answer}"


def _encoded(tokenizer: Any, example: Example, length: int) -> tuple[list[int], int]:
    """The ids of a text, and from which on they are learnt."""
    ids = list(tokenizer(whole(example)).input_ids)
    begin = 0
    if example.answer:
        head = list(tokenizer(example.prompt).input_ids)
        begin = next((i for i, (a, b) in enumerate(zip(head, ids)) if a != b), min(len(head), len(ids)))
        end = tokenizer.eos_token_id
        ids += [end] if end is not None and ids[-1:] != [end] else []
    return ids[:length], min(begin, length)


def next_own(batch: Batch) -> Tensor:
    """Where the next token is of what is learnt, [texts, tokens], true or false."""
    return F.pad(batch.own[:, 1:], (0, 1)) > 0


def unlikely(scores: Tensor, batch: Batch) -> Tensor:
    """Sums of −log p over the learnt tokens of each text, [texts]. scores: [texts, tokens, vocabulary]"""
    found = F.cross_entropy(scores[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
    return (found * batch.own[:, 1:]).sum(1)


def per_token(sums: Tensor, batch: Batch) -> Tensor:
    """The mean over all tokens of a batch of what was summed by text: what a language model is trained on."""
    return sums.sum() / batch.lengths.sum().clamp(min=1)


def demand_lessons(task: Task, method: str) -> tuple[list[Example], list[Example]]:
    """What a task of a method is to forget, and to retain. Raises PolicyError where there is nothing of either."""
    s = task.settings
    retain = [*s.retain, *(Example(prompt=text) for text in task.preserve)]
    for kind, texts in (("forget", s.forget), ("retain", retain)):
        if not texts:
            raise PolicyError(f"making {method}: {kind}: give a file of {EXAMPLES}")
    return s.forget, retain


def learned_from(
    task: Task, retain: Sequence[Example], tensors: dict[str, Tensor], metadata: Any, **about: Any
) -> Learned:
    """What was learnt, with a classifier of prompts where the settings ask for one. about: for the manifest"""
    s = task.settings
    made: dict[str, Any] = {
        "settings": s.model_dump(exclude={"forget", "retain"}), "forget_texts": len(s.forget),
        "retain_texts": len(retain), "seed": task.seed, **about,
    }  # fmt: skip
    if s.classifier:
        prompts = [[one.prompt for one in some] for some in (s.forget, retain)]
        classifier, measured = learn_gate(task, prompts[0], prompts[1], steps=s.classifier)
        tensors, made = {**tensors, **classifier}, {**made, **measured}
    return Learned(tensors, made, metadata=metadata)
