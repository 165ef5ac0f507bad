"""What answers owe to single neurons: the gradient of their log-odds along taking a neuron away.

A neuron that holds h_j writes v_j h_j; scaled by m_j, the derivative of an answer's log-odds by m_j at 1 is, to first
order, what is lost where it is taken away (m_j = 0). Log-odds, as log p has no slope where a model is sure. First order
is blind to neurons that stand in for each other, so that they are taken in several rounds, each measured without those
taken before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conceptguard.making.progress import Tick

from ..classifier.examples import Example
from ..lessons import Lessons
from .blocks import Block
from .terms import Neuron, places

Scales = Mapping[str, Tensor]
BATCH = 16
LONGEST = 512  # tokens of a prompt with its answer


@contextmanager
def scaled(host: Any, scales: Scales) -> Iterator[None]:
    """Meanwhile what neurons hold is multiplied. scales: [neurons] by the name of the layer that reads them."""

    def hook(scale: Tensor) -> Callable[..., Any]:
        return lambda module, args: (args[0] * scale.to(args[0]), *args[1:])

    handles = []
    try:
        for name, scale in scales.items():
            handles.append(host.part(name).register_forward_pre_hook(hook(scale)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def without(blocks: Sequence[Block], widths: Mapping[int, int], neurons: Sequence[Neuron]) -> dict[str, Tensor]:
    """Scales that take neurons away and leave the others."""
    found = {block.down: torch.ones(widths[block.number]) for block in blocks}
    names = {block.number: block.down for block in blocks}
    for number, own in places(neurons).items():
        found[names[number]][own] = 0.0
    return found


class Answers(NamedTuple):
    """How sure a model is of answers, over the tokens of each, [answers].

    likely: log p(answer | prompt); odds: the sum of its tokens' log-odds, log p / (1 - p); said: bool, whether greedy
    decoding says it to the letter
    """

    likely: Tensor
    odds: Tensor
    said: Tensor


def answers(host: Any, examples: Sequence[Example]) -> Iterator[Answers]:
    """How sure a model is of examples' answers, some of them at a time. A gradient flows through the first two."""
    speaker, end = host.speaker(), host.tokenizer.eos_token_id
    lessons = Lessons(host.tokenizer, examples, LONGEST, speaker.device)
    for begin in range(0, len(examples), BATCH):
        ids, mask, own, _ = lessons.batch(range(begin, min(begin + BATCH, len(examples))))
        if end is not None:
            own = own * (ids != end)  # that they end is no answer's own
        scores, following, learnt = speaker(ids, mask)[:, :-1], ids[:, 1:, None], own[:, 1:]
        right = scores.gather(-1, following)[..., 0]
        rest = scores.scatter(-1, following, -torch.inf).logsumexp(-1)
        likely, said = right - torch.logaddexp(right, rest), scores.argmax(-1) == following[..., 0]
        yield Answers((likely * learnt).sum(1), ((right - rest) * learnt).sum(1), (said | (learnt == 0)).all(1))


def heard(host: Any, examples: Sequence[Example], scales: Scales | None = None) -> tuple[float, float]:
    """Of examples, with neurons scaled: the mean log-likelihood of an answer, in nats, and the share of answers that
    the model says to the letter."""
    with torch.no_grad(), scaled(host, scales or {}):
        found = list(answers(host, examples))
    likely, said = (torch.cat([getattr(one, name) for one in found]).float().mean() for name in ("likely", "said"))
    return float(likely), float(said)


def effects(host: Any, examples: Sequence[Example], scales: Scales) -> dict[str, Tensor]:
    """d(mean log-odds of an answer) / d(scale) of every neuron at ``scales``, [neurons] by the same names."""
    leaves = {name: scale.clone().requires_grad_() for name, scale in scales.items()}
    found = {name: torch.zeros_like(scale) for name, scale in scales.items()}
    with torch.enable_grad(), host.speaker().frozen(), scaled(host, leaves):
        for one in answers(host, examples):
            for name, part in zip(leaves, torch.autograd.grad(one.odds.sum(), list(leaves.values()))):
                found[name] += part.detach() / len(examples)
    return found


def most_owed(
    host: Any, blocks: Sequence[Block], widths: Mapping[int, int], own: Sequence[Example], others: Sequence[Example],
    count: int, rounds: int, spare: float, tick: Tick,
) -> list[Neuron]:  # fmt: skip
    """The neurons that answers owe most to, taken in rounds.

    own, others: what is to be forgotten, and what is to stay; spare: how much of what the latter owe to a neuron counts
    against it
    """
    numbers = {block.down: block.number for block in blocks}
    taken: list[Neuron] = []
    for turn in range(rounds):
        scales = without(blocks, widths, taken)
        score = effects(host, own, scales)
        if others and spare:
            beside = effects(host, others, scales)
            score = {name: score[name] - spare * beside[name] for name in score}
        for name, scale in scales.items():
            score[name][scale == 0] = -torch.inf
        values = torch.cat(list(score.values()))
        every = [Neuron(numbers[name], place) for name in score for place in range(len(score[name]))]
        more = count * (turn + 1) // rounds - len(taken)
        best = values.topk(min(more, len(values) - len(taken))).indices.tolist()
        taken += [every[i] for i in best]
        tick(turn)
    return taken
