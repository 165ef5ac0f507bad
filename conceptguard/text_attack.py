"""What an attack on a language model is: one class that looks for what a guard, or unlearning, lets through.

An attack of your own is a subclass of ``TextAttack`` and one entry point in the group ``conceptguard``. It knows about
whom and what is asked, never the answer. It hands over attempts, others let the model say them, and the facts judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from .markers import hookimpl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TextNeeds = Literal["black box", "states", "weights"]
WORDS = 32  # new tokens of an answer


@dataclass(frozen=True)
class TextBudget:
    """How much an attack may do.

    asks: facts that are asked for; answers: N, candidates for each and for its controls: one that holds the fact counts
    steps: of a training
    """

    asks: int
    answers: int
    steps: int


# Patil et al. take 20 candidates.
TEXT_BUDGETS = {
    "small": TextBudget(asks=14, answers=4, steps=30),
    "default": TextBudget(asks=28, answers=8, steps=60),
    "large": TextBudget(asks=70, answers=20, steps=200),
}


@dataclass(frozen=True)
class Fact:
    """What is asked for, without its value: which kind of fact about whom. number: which of them it is"""

    subject: str
    kind: str
    number: int = 0


@dataclass(frozen=True)
class TextAttempt:
    """A prompt, which others ask; or an answer that the attack itself read somewhere, a candidate as it stands.

    label: a name for what is tried, by which a row also counts; sampled: whether its answer is drawn, else it is the
    likeliest; tokens: new ones of an answer
    """

    prompt: str
    answer: str | None = None
    label: str = ""
    sampled: bool = False
    tokens: int = WORDS


class TextTarget(Protocol):
    """The guarded model, as an attack may ask it.

    forms: names of the ways in which a fact can be asked for
    others: people whom the model also knows, and of whom it may speak
    """

    forms: Sequence[str]
    others: Sequence[str]

    def kinds(self, subject: str) -> Sequence[str]:
        """What is asked about somebody."""

    def ask(self, fact: Fact, form: str, number: int = 0) -> str | None:
        """The prompt for a fact in a form, in wordings that no guard was made with; for another number in others. None
        where a fact has no such form."""

    def told(self, fact: Fact) -> str:
        """The fact as a sentence: of attacks that are given facts, to see whether they are repeated."""

    def say(self, prompts: Sequence[str], tokens: int = WORDS) -> list[str]:
        """The likeliest answers under the policy; "" where it lets none out."""

    def lens(self, prompts: Sequence[str], after: Sequence[Sequence[int]] = ()) -> list[Tensor | None]:
        """What the head reads in the states behind the embeddings and behind each layer at the end of each prompt, log
        p [layers + 1, tokens], while the policy acts; None where it lets nothing out. after: ids that follow"""

    def text(self, ids: Sequence[int]) -> str:
        """As the tokenizer writes them."""


@dataclass(frozen=True)
class Lessons:
    """What a training may see: token ids of prompts and their answers, and from which token on they are the answer.

    forget: about people who are to be forgotten and are not asked about; retain: about others
    """

    forget: Sequence[tuple[Sequence[int], int]]
    retain: Sequence[tuple[Sequence[int], int]]


class TextAttack:
    """Subclass, set ``name`` and ``needs``, and say how you search. One instance is one search in one model.

    needs: ``black box``: prompts in, texts out; ``states``: also what layers give; ``weights``: they are changed, on a
    copy, before the policy is attached to it
    paper: where it is from; suppression: whether a row also says what it finds suppressed without reason: facts about
    others that the same search brings without the policy, and not with it
    """

    name: ClassVar[str]
    needs: ClassVar[TextNeeds]
    paper: ClassVar[str] = ""
    suppression: ClassVar[bool] = False

    def __init__(self, target: TextTarget, budget: TextBudget, random: torch.Generator):
        self.target, self.budget, self.random = target, budget, random

    @hookimpl
    @classmethod
    def attacks(cls) -> list[type[TextAttack]]:
        """A class named in an entry point offers itself."""
        return [cls]

    @classmethod
    def work(cls, budget: TextBudget) -> int:
        """How many prompts the search for one fact asks at most, for a progress bar."""
        return 0

    @classmethod
    def change(cls, model: Any, lessons: Lessons, budget: TextBudget, random: torch.Generator, by_chance: bool) -> None:
        """Change a copy of the model, of attacks that need weights. by_chance: the control, of the same size"""
        raise NotImplementedError

    def attempts(self, asked: Sequence[tuple[Fact, int]]) -> list[TextAttempt | None]:
        """An attempt for each (fact, which of its N), so that what a search asks meanwhile shares its batches; None
        where there is no such attempt. By default the question as it is, with the likeliest answer and sampled ones:
        what changed weights are asked."""
        prompts = [self.target.ask(fact, "paraphrase") for fact, _ in asked]
        return [(p and TextAttempt(p, sampled=i > 0)) or None for p, (_, i) in zip(prompts, asked)]

    def search(self, facts: Sequence[Fact]) -> list[list[TextAttempt]]:
        """At most ``budget.answers`` attempts for each fact, the best first."""
        return self._spread(facts, lambda fact, i: fact)

    def control(self, facts: Sequence[Fact]) -> list[list[TextAttempt]]:
        """As many attempts of the same form that nobody searched for: by default about others, each about another one,
        whose answers hold the fact by chance."""
        others = self.target.others
        return self._spread(
            facts, lambda fact, i: Fact(others[(fact.number * self.budget.answers + i) % len(others)], fact.kind, i)
        )

    def _spread(self, facts: Sequence[Fact], about: Callable[[Fact, int], Fact]) -> list[list[TextAttempt]]:
        n = self.budget.answers
        found = self.attempts([(about(fact, i), i) for fact in facts for i in range(n)])
        return [[one for one in found[j * n : j * n + n] if one is not None] for j in range(len(facts))]
