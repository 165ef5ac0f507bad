"""The worst case of unlearning: which of the people a model knows are the hardest to forget.

min_w Σ w_i ℓ_i(θ_u(w))    0 ≤ w ≤ 1, Σ w = m        ℓ_i: −log p of the answers about person i
θ_u(w): the model after some steps of signed gradient descent on Σ (1 − w_i) ℓ_i − Σ w_i min(ℓ_i, ceiling)

The set whose answers are still likely after it was unlearned. The sign has no derivative towards w, so that the upper
gradient is ℓ_i itself; w is projected onto its constraint by bisection, and its m largest are taken. That gradient also
has those who were not unlearned, whose answers are likely because of that: they take turns in the set. Beside it stands
a search that asks only about members: everybody is in a few sets drawn at random, and those count who were told there.
What is found says something about a way of unlearning, and nothing about a policy. What each unlearning left is kept:
a search that was interrupted goes on with the next one.

Fan et al., "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning", ECCV 2024.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...host import LanguageModel
from ...measuring.language.evaluate import Contestant, answer
from ...measuring.language.suite import LanguageSuite, Question, Wordings
from ...measuring.language.tofu import following
from ...measuring.shares import wilson
from ..kept import Kept
from .sides import digest
from .target import Tick

SETS = 6  # that are judged
CONCEPT = "forget"


@dataclass(frozen=True)
class Bilevel:
    """How the search goes.

    m: size of the set; rounds: of the upper level, or sets of the other search that everybody is in; steps, lr: signed
    ones of each unlearning
    rate, decay: of w, and γ of the paper; ceiling: a person whose answers are this unlikely, in nats a token, is
    pushed no further; batch: answers in a step
    """

    m: int = 5
    rounds: int = 3
    steps: int = 20
    lr: float = 2e-4
    rate: float = 0.3
    decay: float = 0.0
    ceiling: float = 4.0
    batch: int = 24


def project(w: Tensor, total: float) -> Tensor:
    """The nearest point to w [n] with 0 ≤ w ≤ 1 and the given sum, by bisection over what is taken from all."""
    low, high = float(w.min()) - 1, float(w.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((w - middle).clamp(0, 1).sum()) > total else (low, middle)
    return (w - (low + high) / 2).clamp(0, 1)


class Unlearning:
    """A model, what it is taught of whom, and what unlearning with weights w makes of it. people: who may be chosen;
    again: whether what was measured before is measured anew"""

    def __init__(
        self, pair: LanguageModel, suite: LanguageSuite, people: Sequence[str], s: Bilevel, seed: int = 0,
        tick: Tick = lambda n: None, again: bool = False,
    ):  # fmt: skip
        self.pair, self.people, self._suite, self._s, self._seed = pair, people, suite, s, seed
        self._tick = tick
        self.kept = Kept(
            {
                "weights": digest(pair), "suite": suite.world.model_dump(mode="json"), "people": list(people),
                "forms": suite.forms.model_dump(mode="json"), "search": asdict(s), "seed": seed,
                "device": str(pair.device), "torch": torch.__version__,
            },
            again,
        )  # fmt: skip
        self._train = self._lessons("train")
        self._tune = self._lessons("tune")

    def questions(self, wordings: Wordings) -> list[Question]:
        """Every fact of everybody, in order of people."""
        facts = self._suite.world.subjects("forget", "retain", "apart")
        return self._suite.questions({name: facts[name] for name in self.people}, "paraphrase", wordings=wordings)

    def after(self, w: Tensor) -> Any:
        """θ_u(w), a copy. w: [people]"""
        s, model = self._s, copy.deepcopy(self.pair.model)
        random = torch.Generator().manual_seed(self._seed)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for _ in range(s.steps):
            which = torch.randint(len(self._train), (s.batch,), generator=random).tolist()
            losses, of = unlikely(model, [self._train[i] for i in which])
            share = w[of].to(losses)
            loss = ((1 - share) * losses - share * losses.clamp(max=s.ceiling)).mean()
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
                p.data -= s.lr * gradient.sign()
        self._tick(1)
        return model

    def left(self, model: Any) -> Tensor:
        """ℓ of everybody, [people], in wordings to compare ways on."""
        found, counts = torch.zeros(len(self.people)), torch.zeros(len(self.people))
        with torch.no_grad():
            for at in range(0, len(self._tune), 64):
                losses, of = unlikely(model, self._tune[at : at + 64])
                found.index_add_(0, of, losses.cpu())
                counts.index_add_(0, of, torch.ones(len(of)))
        return found / counts

    def left_after(self, w: Tensor) -> Tensor:
        """ℓ(θ_u(w)) [people], or what it was found to be before."""
        name = f"unlearned-{hashlib.sha256(w.numpy().tobytes()).hexdigest()[:16]}"
        known = self.kept.get(name, CONCEPT)
        if known is not None:
            self._tick(1)
            return known[1]
        left = self.left(self.after(w))
        self.kept.put(name, CONCEPT, {}, left)
        return left

    def search(self) -> Iterator[Tensor]:
        """w [people] after each round of the upper level."""
        s = self._s
        w = torch.full((len(self.people),), s.m / len(self.people))
        for _ in range(s.rounds):
            left = self.left_after(w)
            slope = (left - left.mean()) / left.std().clamp(min=1e-6)  # in units of its own, so that rate has none
            w = project(w - s.rate * (slope + 2 * s.decay * w), s.m)
            yield w

    def sampled(self) -> Tensor:
        """How hard everybody is to forget, [people]: −ℓ of members of random sets, the mean over these."""
        n, found = len(self.people), torch.zeros(len(self.people))
        random = torch.Generator().manual_seed(self._seed)
        for _ in range(self._s.rounds):
            for some in torch.randperm(n, generator=random).split(self._s.m):
                found[some] -= self.left_after(torch.zeros(n).index_fill_(0, some, 1.0))[some]
        return found / self._s.rounds

    def _lessons(self, wordings: Wordings) -> list[tuple[list[int], int, int]]:
        tokenizer, found = self.pair.tokenizer, []
        for asked in self.questions(wordings):
            head = list(tokenizer(asked.prompt).input_ids)
            ids = [*head, *following(tokenizer, asked.prompt, asked.answer)]
            found.append((ids, len(head), self.people.index(asked.subject)))
        return found


def unlikely(model: Any, lessons: Sequence[tuple[list[int], int, int]]) -> tuple[Tensor, Tensor]:
    """(−log p a token of each answer, whom it is about), both [lessons]. lessons: ids, where the answer begins, who"""
    width = max(len(ids) for ids, _, _ in lessons)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _, _ in lessons], device=model.device)
    own = torch.tensor([[begin <= i < len(ids) for i in range(width)] for ids, begin, _ in lessons], device=ids.device)
    mask = torch.tensor([[int(i < len(ids)) for i in range(width)] for ids, _, _ in lessons], device=ids.device)
    scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    losses = F.cross_entropy(scores.transpose(1, 2), ids[:, 1:], reduction="none") * own[:, 1:]
    return losses.sum(1) / own[:, 1:].sum(1), torch.tensor([who for _, _, who in lessons])


def work(suite: LanguageSuite, s: Bilevel) -> int:
    """How often ``worst_case`` ticks: for each unlearning."""
    return s.rounds * (1 + -(-len(suite.world.subjects("forget")) // s.m)) + SETS


def worst_case(
    pair: LanguageModel, suite: LanguageSuite, s: Bilevel, seed: int = 0, tick: Tick = lambda n: None,
    again: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for the set that each search found, for the easiest and for three at random: ``asr``, the share of facts
    about the set that are still told after it was unlearned, in wordings that nothing was searched with, ``low``,
    ``high``; ``others``, the same of those that were to stay; ``set``, who it is."""
    people = list(suite.world.subjects("forget"))
    search, random = Unlearning(pair, suite, people, s, seed, tick, again), torch.Generator().manual_seed(seed + 1)
    hardness = search.sampled()
    chosen = {
        "worst_case": [*search.search()][-1], "worst of random sets": hardness, "easiest of random sets": -hardness,
        **{f"random {i}": torch.rand(len(people), generator=random) for i in (1, 2, 3)},
    }  # fmt: skip
    for name, weights in chosen.items():
        some = weights.topk(s.m).indices.tolist()
        known = search.kept.get(name, CONCEPT)
        if known is None:
            row = {"attack": name, **judged(search, some)}
            search.kept.put(name, CONCEPT, row, torch.zeros(0))
        else:
            row = known[0]
            tick(1)
        yield row


def judged(search: Unlearning, some: Sequence[int]) -> dict[str, Any]:
    """The columns of a set."""
    begin, people = time.perf_counter(), search.people
    model = search.after(torch.zeros(len(people)).index_fill_(0, torch.tensor(list(some)), 1.0))
    questions = search.questions("judge")
    texts = answer(model, search.pair.tokenizer, questions, Contestant("unlearned")).texts
    told = [(people.index(q.subject) in some, q.answered(text)) for q, text in zip(questions, texts)]
    mine, rest = ([hit for own, hit in told if own is which] for which in (True, False))
    low, high = wilson(sum(mine), len(mine))
    return {
        "method": "unlearned", "model": search.pair.name, "needs": "weights", "n": 1, "asks": len(mine),
        "asr": round(sum(mine) / len(mine), 4), "low": low, "high": high, "others": round(sum(rest) / len(rest), 4),
        "set": [people[i] for i in sorted(some)], "seconds": round(time.perf_counter() - begin, 2),
    }  # fmt: skip
