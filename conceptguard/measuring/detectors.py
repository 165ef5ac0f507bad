"""What a protocol looks with: a judge, or a method of pictures, asked as a stranger and not as a guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import plugins
from ..errors import PolicyError
from ..hosts.images import Pictures
from ..policy import Policy
from ..policy_file import load_policy
from ..receipt import Verdict
from ..sessions.attach import attach
from .own_judges import judge_for
from .protocols import Protocol

Detector = Callable[[Tensor], "list[Seen]"]


@dataclass(frozen=True)
class Seen:
    """What one picture shows: whether it counts, the best score, and how many things count."""

    counts: bool
    score: float
    number: int


def load_detector(protocol: Protocol, threshold: float) -> Detector:
    """Takes pictures [n, 3, h, w] in [0, 1]. Raises PolicyError where there is no such detector here."""
    kind, _, what = protocol.detector.partition(":")
    if kind == "judge" or kind in plugins.offers("measures"):
        return _of_judge(protocol, what if kind == "judge" else protocol.detector, threshold)
    known = plugins.methods()
    if kind not in known or "check_image" not in plugins.hooks(known[kind]):
        raise PolicyError(
            f"protocol '{protocol.name}' looks with '{protocol.detector}' ({protocol.build or 'version unknown'}), "
            "and no such detector is installed: a plugin may offer it under this name, see Evaluate; another detector "
            "makes another protocol"
        )
    method = known[kind]
    given = {"threshold": threshold, "labels": list(protocol.labels)}
    settings = {name: value for name, value in given.items() if name in method.Settings.model_fields}
    guard = {"method": kind, **({"artifact": what} if what else {}), **settings}
    every = verdicts(guard)

    def look(pixels: Tensor) -> list[Seen]:
        all_of_them, found = every(pixels), []
        for i in range(len(pixels)):
            mine = [v for v in all_of_them if v.image == i and v.label in protocol.labels]
            flagged = [v for v in mine if v.flagged]
            number = sum(max(1, len(v.boxes)) for v in flagged)
            found.append(Seen(bool(flagged), max((v.score for v in mine), default=0.0), number))
        return found

    return look


def verdicts(guard: Mapping[str, Any]) -> Callable[[Tensor], Sequence[Verdict]]:
    """What one guard of pictures says of pictures [n, 3, h, w] in [0, 1], asked as a stranger. Raises PolicyError for a
    method that looks at none, or that is not whole."""
    session = attach(Pictures(), load_policy({"name": "detector", "on_violation": "flag", "guards": [dict(guard)]}))

    def look(pixels: Tensor) -> Sequence[Verdict]:
        session.check_image(pixels, [None] * len(pixels))
        return list(session.receipt.verdicts)

    return look


def _of_judge(protocol: Protocol, name: str, threshold: float) -> Detector:
    judge = judge_for(name, protocol.labels)
    unknown = [label for label in protocol.labels if label not in [*judge.objects, *judge.styles]]
    if unknown:
        raise PolicyError(f"protocol '{protocol.name}': the judge {name} does not know {', '.join(unknown)}")

    def look(pixels: Tensor) -> list[Seen]:
        seen = judge.judge(pixels)
        places = [(seen.object_probs, judge.objects.index(n)) if n in judge.objects else
                  (seen.style_probs, judge.styles.index(n)) for n in protocol.labels]  # fmt: skip
        found = []
        for i in range(len(pixels)):
            scores = [float(probs[i, at]) for probs, at in places]
            number = sum(score >= threshold for score in scores)
            found.append(Seen(number > 0, max(scores), number))
        return found

    return look


def check_independent(protocol: Protocol, policies: Sequence[Policy]) -> None:
    """Raises PolicyError where a policy's own last look is what would judge it: it would always say that it held."""
    kind = protocol.detector.partition(":")[0]
    for policy in policies:
        if any(guard.method == kind for guard in policy.guards):
            raise PolicyError(
                f"policy '{policy.name}' looks at its pictures with '{kind}', and protocol '{protocol.name}' judges "
                "with it: what guards cannot judge; leave that guard out, or take a protocol with another detector"
            )
