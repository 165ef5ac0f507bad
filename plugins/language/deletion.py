"""Deletion, and its defences against whoever reads layers: losses on the tokens of an answer that is to be forgotten.

fact_erasure      p(y)
empty_response    −log p(d)                                         d: an answer that says nothing
error_injection   −log p(y*)                                        y*: the answer to something else
head_projection   mean_ℓ max(0, p_ℓ(y) − p_ℓ(k)) + max(0, p_ℓ(−k) − p_ℓ(y))
max_entropy       mean_ℓ Σ p_ℓ log p_ℓ

p_ℓ: what the head reads in layer ℓ; p_ℓ(k), p_ℓ(−k): the k-th likeliest and unlikeliest there. The first three move
what is said, the last two what stands in every layer: y neither stands out nor is missing. The sixth defence, input
rephrasing, is no loss: it is any of these on more wordings of the same prompts.

Patil, Hase, Bansal: "Can Sensitive Information Be Deleted From LLMs?", ICLR 2024. There a rank-one edit of one layer,
by ROME's optimisation, for one fact of one token; here all facts and all their tokens at once, in the layers that the
other trained methods learn. Losses of different kinds have different sizes, and weigh as ``forget_weight`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from .classifier.examples import Example
from .lessons import Lessons, next_own, per_token, unlikely
from .trained_text import LessonSettings, TrainedText

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from conceptguard.making.task import Task

    from .lessons import Batch
    from .trained_text import Formula, Teaching

Defence = Literal["fact_erasure", "empty_response", "error_injection", "head_projection", "max_entropy"]


class DeletionMakeSettings(LessonSettings):
    """How the layers are trained.

    defence: which loss; input rephrasing is whatever loss on texts to forget in several wordings
    everywhere: what the first three have said is read in every layer, not in the last alone [ours]
    answer: what empty_response has said in place of every answer
    k: how likely and unlikely an answer's token may be for head_projection: the k-th of a layer
    forget_weight: of what forgets
    """

    defence: Defence = "head_projection"
    everywhere: bool = False
    answer: str = "I do not know."
    k: int = Field(default=4, ge=1)
    forget_weight: float = Field(default=1.0, gt=0)


def margin(read: Tensor, own: Tensor, k: int) -> Tensor:
    """The loss of head_projection. read: log p, [..., vocabulary]; own: the answers' tokens, [...]"""
    p = read.exp()
    mine = of_tokens(p, own)
    high, low = p.topk(k).values[..., -1], p.topk(k, largest=False).values[..., -1]
    return ((mine - high).clamp(min=0) + (low - mine).clamp(min=0)).mean()


class Deletion(TrainedText):
    """Text: layers that were trained to delete answers, by one of the defences against extraction (reference).

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "deletion"
    MakeSettings = DeletionMakeSettings

    @classmethod
    def formula(cls, task: Task, teaching: Teaching, random: torch.Generator) -> Formula:
        """As above. What is said in place of each answer is drawn once."""
        s, others = task.settings, _others(task.settings, teaching, random)

        def read(batch: Batch, everywhere: bool = True) -> tuple[Tensor, Tensor]:
            """log p [layers, n, vocabulary] where the next token is learnt, and those tokens [layers, n]."""
            found = teaching.lens(batch) if everywhere else teaching.say(batch, learnt=True)[next_own(batch)][None]
            own = batch.ids[:, 1:][batch.own[:, 1:] > 0]
            return found.log_softmax(-1), own.expand(len(found), -1)

        def erased(forget: Batch) -> Tensor:
            return of_tokens(*read(forget, s.everywhere)).exp().mean()

        def said(forget: Batch) -> Tensor:
            return -of_tokens(*read(others.batch(forget.which), s.everywhere)).mean()

        def projected(forget: Batch) -> Tensor:
            return margin(*read(forget), s.k)

        def certain(forget: Batch) -> Tensor:
            found, _ = read(forget)
            return (found.exp() * found).sum(-1).mean()

        losses: dict[str, Callable[[Batch], Tensor]] = {
            "fact_erasure": erased, "empty_response": said, "error_injection": said, "head_projection": projected,
            "max_entropy": certain,
        }  # fmt: skip
        forgets = losses[s.defence]

        def loss(forget: Batch, retain: Batch) -> Tensor:
            found = s.forget_weight * forgets(forget)
            if s.retain_weight:
                found = found + s.retain_weight * per_token(unlikely(teaching.say(retain, learnt=True), retain), retain)
            return found

        return loss


def of_tokens(read: Tensor, own: Tensor) -> Tensor:
    """What is read of tokens, [...]. read: [..., vocabulary]; own: tokens, [...]"""
    return read.gather(-1, own[..., None])[..., 0]


def _others(s: DeletionMakeSettings, teaching: Teaching, random: torch.Generator) -> Lessons:
    """Every text to forget with another answer: one that says nothing, or that of another text."""
    answers = [one.answer for one in s.forget]
    if s.defence == "error_injection":
        turned = torch.randperm(len(answers), generator=random).tolist()
        answers = [next((answers[i] for i in (*turned[at:], *turned[:at]) if answers[i] != own), s.answer)
                   for at, own in enumerate(answers)]  # fmt: skip
    else:
        answers = [s.answer] * len(answers)
    prompts = [one.prompt if one.answer else "" for one in s.forget]
    examples = [Example(prompt=prompt, answer=answer) for prompt, answer in zip(prompts, answers)]
    return Lessons(teaching.tokenizer, examples, s.length, teaching.speaker.device)
