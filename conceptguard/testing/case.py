"""What a plugin author says about a method, and the two ways in which a check can end other than well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class ContractBroken(AssertionError):
    """A promise that the method does not keep; the message says which, and how it showed."""


class NotApplicable(Exception):
    """The promise says nothing about this method, or what the check needs is not installed."""


@dataclass(frozen=True)
class Case:
    """One method to be judged.

    guard: its entry in a policy, e.g. ``{"method": "spm", "artifact": "emoji-sd/spm/cigarette"}``
    opens: a prompt on which the guard must act
    unrelated: prompts that it must leave alone
    load: gives the pipeline to judge it on; the embedded model by default, loaded once for all cases
    steps: denoising steps of every generation
    call: what else every generation is called with, e.g. a size; a negative prompt given as one text is every row's
    unguided: what turns classifier-free guidance off in a call; None where a call has no say in that
    draw: (what was loaded, prompts, seeds) -> pictures [n, 3, height, width], for a host that is no pipeline
    """

    guard: Mapping[str, Any]
    opens: str
    unrelated: tuple[str, str] = ("a red apple", "a small dog")
    load: Callable[[], Any] | None = None
    steps: int = 2
    call: Mapping[str, Any] = field(default_factory=dict)
    unguided: Mapping[str, Any] | None = field(default_factory=lambda: {"guidance_scale": 1.0})
    draw: Callable[[Any, Sequence[str], Sequence[int]], Tensor] | None = None


@dataclass(frozen=True)
class TextCase:
    """One method to be judged on a language model.

    guard, opens, unrelated: as in ``Case``; what the model says to ``opens`` by itself is what the guard must change
    load: gives (model, tokenizer); the embedded language model by default, loaded once for all cases
    tokens: how many are said
    picture: stands in every prompt that has a place for one, of a model that sees; load then gives (model, processor)
    """

    guard: Mapping[str, Any]
    opens: str
    unrelated: tuple[str, str]
    load: Callable[[], Any] | None = None
    tokens: int = 24
    picture: Any = None


@dataclass(frozen=True)
class ModuleCase:
    """One method to be judged on a plain torch module.

    guard: its entry in a policy; load: gives the module, in evaluation mode, the same one each time
    inputs: a batch [n, ...] that the guard must change the outputs of
    """

    guard: Mapping[str, Any]
    load: Callable[[], Any]
    inputs: Tensor


def demand(kept: bool, message: str) -> None:
    """Raise ContractBroken unless a promise is kept. Not ``assert``, which python -O leaves out."""
    if not kept:
        raise ContractBroken(message)
