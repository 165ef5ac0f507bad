"""Learning GUARD's prompt classifier (``wording``) from prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .hashes import Hashes
from .wording import JOINED, STRETCH, Wording, blurs, words_in

BATCH = 128  # of each kind
DECAY = 0.03
STRAY = 0.02  # share of the prompts of either kind that are alike by chance, and move no threshold
TELLS = 0.01  # a pair that weighs less changes nothing
_Pair = tuple[str, str]


class _Vocabulary:
    """Words and pairs of words of forget prompts, numbered from 1; 0 is any other.

    What only prompts to retain have could only speak for letting a prompt through: whoever asks would put it in.
    """

    def __init__(self, prompts: Sequence[Sequence[str]]):
        self.words = sorted({word for words in prompts for word in words})
        self.pairs = sorted({pair for words in prompts for pair in _pairs(words)})
        self._numbers = {feature: i for i, feature in enumerate([*self.words, *self.pairs], 1)}

    def numbers(self, words: Sequence[str]) -> Tensor:
        """[words, 2]: every word, and its pair with the next one."""
        pairs = [self._numbers.get(pair, 0) for pair in _pairs(words)]
        return torch.tensor([(self._numbers.get(w, 0), p) for w, p in zip(words, [*pairs, 0])] or [(0, 0)])

    def __len__(self) -> int:
        return len(self._numbers)


def _pairs(words: Sequence[str]) -> list[_Pair]:
    return [(min(a, b), max(a, b)) for a, b in pairwise(words)]


def learn(
    forget: Sequence[str], retain: Sequence[str], salt: bytes, steps: int, lr: float, seed: int,
    report: Callable[[int, float], None],
) -> Wording:  # fmt: skip
    """Logistic regression on batches of half and half, weights kept from falling below 0."""
    prompts = [words_in(text) for text in (*forget, *retain)]
    known = _Vocabulary(prompts[: len(forget)])
    given = [known.numbers(words) for words in prompts]
    weights = torch.zeros(len(known) + 1, 1, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.AdamW([weights, bias], lr=lr, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    wanted = torch.tensor([1.0] * BATCH + [0.0] * BATCH)
    random = torch.Generator().manual_seed(seed)
    for step in range(steps):
        some = [
            *torch.randint(len(forget), (BATCH,), generator=random).tolist(),
            *torch.randint(len(forget), len(given), (BATCH,), generator=random).tolist(),
        ]
        loss = F.binary_cross_entropy_with_logits(_logits([given[i] for i in some], weights) + bias, wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            weights.clamp_min_(0)
        report(step, float(loss.detach()))
    values = weights[1:, 0].tolist()
    words = dict.fromkeys(sorted({word for words in prompts for word in words}), 0.0)
    words |= dict(zip(known.words, values))
    return _hashed(words, dict(zip(known.pairs, values[len(known.words) :])), float(bias.detach()), Hashes(salt))


def _logits(prompts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Of numbered prompts, [words, 2] each, the sums of their most telling stretches: [prompts]."""
    longest = max(STRETCH, *map(len, prompts))
    padded = torch.stack([F.pad(one, (0, 0, 0, longest - len(one))) for one in prompts])
    values = F.embedding(padded, weights, padding_idx=0)[..., 0].sum(-1)
    sums = F.pad(values.cumsum(1), (1, 0))
    return (sums[:, STRETCH:] - sums[:, :-STRETCH]).amax(1)


def _hashed(words: dict[str, float], pairs: dict[_Pair, float], bias: float, hashes: Hashes) -> Wording:
    """What was learned, without its words. Words that only prompts to retain have are known, and nobody's slip."""
    known = {word: hashes.of(word) for word in words}
    weights = {known[word]: weight for word, weight in words.items()}
    telling = {word for word, weight in words.items() if weight + bias > 0}
    joined: dict[int, float] = {}
    lengths = set()
    for (one, other), weight in pairs.items():
        if weight > TELLS:
            weights[hashes.pair(known[one], known[other])] = weight
        whole = weight + words[one] + words[other]
        if whole + bias > 0:
            telling |= {one, other}
            if len(one + other) >= JOINED:
                lengths.add(len(one + other))
                joined |= {hashes.of(letters): whole for letters in (one + other, other + one)}
    blurred: dict[int, set[int]] = {}
    for word in telling:
        for left in blurs(word):
            blurred.setdefault(hashes.of(left), set()).add(known[word])
    near = {left: tuple(sorted(those)) for left, those in blurred.items()}
    return Wording(hashes, weights, near, joined, tuple(sorted(lengths)), bias)


def calibrated(wording: Wording, forget: Sequence[str], retain: Sequence[str]) -> Wording:
    """The same with its threshold half-way between the least telling forget prompts and the most telling others, of
    either all but those that stray.

    forget, retain: prompts that it was not learned from
    """
    own, kept = (torch.tensor([wording.logit(text) for text in texts]) for texts in (forget, retain))
    middle = float(own.quantile(STRAY) + kept.quantile(1 - STRAY)) / 2
    return replace(wording, bias=wording.bias - middle)
