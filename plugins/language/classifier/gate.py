"""A classifier of prompts as the gate of an artifact: learnt beside what it opens, read again, and asked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptguard.errors import ArtifactError
from conceptguard.runtime.within import Opens, always

from .examples import parts
from .learn import calibrated, learn
from .wording import Wording

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Task
    from conceptguard.policy import Guard
    from conceptguard.registry import Artifact

_OWN = "classifier."
STEPS, RATE = 1500, 0.1  # of its optimiser


def learn_gate(
    task: Task, forget: Sequence[str], retain: Sequence[str], steps: int = STEPS, lr: float = RATE
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a classifier that tells prompts to forget from others, and for the manifest what shares of prompts
    that it did not learn from it misses and flags."""
    salt = hashlib.sha256(json.dumps([task.seed, task.concept.name, list(forget)]).encode()).digest()[:16]
    (own, own_apart), (kept, kept_apart) = parts(list(forget)), parts(list(retain))
    with task.bar(steps, ", prompts") as tick:
        found = calibrated(learn(own, kept, salt, steps, lr, task.seed, tick), own_apart, kept_apart)
    missed, flagged = ([found.logit(text) >= 0 for text in some] for some in (own_apart, kept_apart))
    return {f"{_OWN}{name}": tensor for name, tensor in found.tensors().items()}, {
        "forget_prompts": len(forget),
        "missed": round(1 - sum(missed) / len(missed), 4), "flagged": round(sum(flagged) / len(flagged), 4),
    }  # fmt: skip


def read_gate(artifact: Artifact, tensors: Mapping[str, Tensor]) -> Wording | None:
    """An artifact's classifier, or None where it has none. Raises ArtifactError for a damaged one."""
    own = {name.removeprefix(_OWN): tensor for name, tensor in tensors.items() if name.startswith(_OWN)}
    try:
        return Wording.read(own) if own else None
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise ArtifactError(f"{artifact.ref} has no sound classifier ({error}): make it again") from None


def opened_by(guard: Guard, wording: Wording | None, threshold: float) -> Opens:
    """What opens a guard: the policy's fixed gate, else its classifier; without one every prompt.

    threshold: from which probability a prompt counts
    """
    if isinstance(guard.gate, float):
        return always(guard.strength * guard.gate)
    if guard.gate == "always" or wording is None:
        return always(guard.strength)
    least = math.log(threshold / (1 - threshold))

    def opens(ids: Any, text: str | None) -> float:
        return guard.strength if text is None or wording.logit(text) >= least else 0.0

    return opens
