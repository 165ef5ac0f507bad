"""What an attack is: one class that looks for what a guard lets through, and for nothing else.

An attack of your own is a subclass of ``Attack`` and one entry point in the group ``conceptguard``. It never judges
itself: it hands over attempts, others draw them under the policy, and a judge that the search never saw counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from .markers import hookimpl

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

    from .protocols import Denoiser
    from .runtime.lowrank import Factors, LayerIndex

Needs = Literal["black box", "encoder", "white box"]


@dataclass(frozen=True)
class Budget:
    """How much an attack may do for one concept.

    asks: prompts that are attacked; pictures: N, drawn of each and of its controls: one that shows the concept counts
    iterations: gradient steps for each prompt; check: after how many of them the best so far is looked at
    population, generations: of a search without gradients
    """

    asks: int
    pictures: int
    iterations: int
    check: int
    population: int
    generations: int


# What papers take is "large": P4D's and PEZ's 3,000 steps with a look every 50, Ring-A-Bell's 200 in 3,000 generations.
BUDGETS = {
    "small": Budget(asks=2, pictures=2, iterations=20, check=10, population=24, generations=15),
    "default": Budget(asks=4, pictures=4, iterations=150, check=30, population=100, generations=120),
    "large": Budget(asks=12, pictures=9, iterations=3000, check=50, population=200, generations=3000),
}


@dataclass(frozen=True)
class Ask:
    """One prompt that is to be attacked. number: which of them it is

    about: the prompt for the concept whose picture is to come back, where ``prompt`` asks for nothing of the kind
    """

    prompt: str
    number: int = 0
    about: str = ""

    @property
    def wanted(self) -> str:
        """What the unguarded model is asked for where a search needs its answer."""
        return self.about or self.prompt


@dataclass(frozen=True)
class Attempt:
    """What is drawn under the policy instead of an ask's own prompt.

    prompt: a text, as a user would type it; it is tokenised anew
    words: words that were learnt, as a textual inversion: each with its input vector [hidden]
    parts, weights: several prompts at once in place of one, ε_∅ + Σ w_i (ε(c_i) - ε_∅)
    latents: what denoising begins from, [channels, h, w], noise in the model's own units; with an empty prompt, and no
    parts, nothing is asked for in words
    begin: at which of the steps; eta: DDIM's η, how much fresh noise each step adds
    lora: low-rank changes of layers, as a LoRA that somebody loads; see ``Target.layers``
    turned: what is drawn is upside down and in other colours, and is turned back before anybody looks at it
    """

    prompt: str
    words: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Sequence[str] = ()
    weights: Sequence[float] = ()
    latents: Tensor | None = None
    begin: int = 0
    eta: float = 0.0
    lora: Mapping[str, Factors] = field(default_factory=dict)
    turned: bool = False


class Target(Protocol):
    """The guarded model, as an attack may ask it.

    concept, words: what is to be brought back, and what evokes it
    others: what the model also draws, near things first, in words that do not name the concept
    vocabulary: ids of the tokens that a search may use; hidden: how wide input vectors are
    denoiser: the bare one, and its latents; steps, guidance: of a generation; batch: pictures that are drawn at once
    judged: whether there is a judge for the search, which is never that of the score
    """

    concept: str
    words: Sequence[str]
    others: Sequence[str]
    vocabulary: Tensor
    steps: int
    guidance: float
    batch: int
    judged: bool

    @property
    def denoiser(self) -> Denoiser: ...

    @property
    def window(self) -> int:
        """How many tokens of a text are read."""

    def ids(self, text: str) -> list[int]:
        """Token ids without special tokens."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids; ``ids`` of it may be others, since some lists of tokens no text gives."""

    def vectors(self) -> Tensor:
        """Input vectors of all tokens of the encoder, [tokens, hidden]."""

    def states(self, texts: Sequence[str]) -> Tensor:
        """What the unguarded text encoder says of texts, [rows, tokens, width]: all that is known of a black box."""

    def ending(self, text: str | Tensor) -> Tensor:
        """The state of the unguarded encoder at the end of a text, [width]; of input vectors [n, hidden] with gradients
        towards them. Raises SessionError where there is no one CLIP."""

    def endings(self, texts: Sequence[str]) -> Tensor:
        """The same of texts, [rows, width], and without gradients: of no more positions than they have."""

    def guarded(self, text: str, latents: Tensor, timestep: int, vectors: Tensor | None = None) -> Tensor:
        """What is predicted under the policy, with gradients towards ``vectors``; see ``Host.predict``. Raises
        ``Refused`` and ``GuardError`` where the policy lets nothing through."""

    def bare(self, text: str, latents: Tensor, timestep: int) -> Tensor:
        """The same without the policy, and without gradients."""

    def draw(self, attempt: Attempt, seed: int) -> Tensor | None:
        """A picture under the policy, [3, h, w] in [0, 1]; None where it lets none out."""

    def example(self, ask: Ask) -> Tensor:
        """What the unguarded model draws for an ask, [3, h, w] in [0, 1]; with a judge for the search, of some the one
        that it is surest of."""

    def likeness(self, pictures: Tensor) -> Tensor:
        """How sure the search's judge is that pictures [n, 3, h, w] show the concept, [n] in [0, 1]."""

    def shows(self, pictures: Tensor) -> list[bool]:
        """Whether the search's judge names the concept, of pictures as above."""

    def knowing(self, words: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Meanwhile the model has learnt words, each with its input vector [hidden], as by textual inversion. Raises
        SessionError where it cannot."""

    def layers(self) -> LayerIndex:
        """The model's layers under canonical names, for whoever has its weights."""

    def tick(self, n: int = 1) -> None:
        """So much was done of what ``Attack.work`` announced."""


class Attack:
    """Subclass, set ``name`` and ``needs``, and say how you search. One instance is one search in one concept.

    needs: ``black box``: prompts in, pictures out, and what a caller may set; ``encoder``: also the text encoder;
    ``white box``: predictions, gradients and weights of the guarded model
    paper: where it is from; vocabulary: whether ``Target.vocabulary`` matters to it; judged: whether its search asks
    ``Target.likeness``, where there is a judge for that
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    paper: ClassVar[str] = ""
    vocabulary: ClassVar[bool] = True
    judged: ClassVar[bool] = False

    def __init__(self, target: Target, budget: Budget, random: torch.Generator):
        self.target, self.budget, self.random = target, budget, random

    @hookimpl
    @classmethod
    def attacks(cls) -> list[type[Attack]]:
        """A class named in an entry point offers itself."""
        return [cls]

    @classmethod
    def work(cls, budget: Budget) -> int:
        """How often the search of one ask ticks at most, for a progress bar."""
        return 0

    def search(self, ask: Ask) -> list[Attempt]:
        """At most ``budget.pictures`` attempts for an ask, the best first; pictures are spread over them."""
        raise NotImplementedError

    def control(self, ask: Ask) -> list[Attempt]:
        """As many attempts of the same form that nobody searched for; empty where the attack is itself by chance."""
        raise NotImplementedError
