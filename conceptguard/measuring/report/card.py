"""A report card as plain data, and as what its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ...policy import Policy
from ...receipt import Receipt
from .figures import Row
from .open_problems import Problem
from .pairs import Pair


@dataclass
class Card:
    """name: what the policy is called; facts: how it was made, in words
    rows: a figure each, see ``figures``; attacks: rows of redteam
    strips: pictures under an attack, by concept and attack, uint8 [asks, 3, h, w]; none where rows come from a file
    cost: see ``cost``; receipts: of every call under the policy
    """

    name: str
    model: str
    policy: Policy
    facts: Mapping[str, str]
    rows: Sequence[Row]
    pairs: Sequence[Pair]
    attacks: Sequence[Mapping[str, Any]] = ()
    strips: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    cost: Sequence[Row] = ()
    receipts: Sequence[Receipt] = ()
    untested: Sequence[str] = ()
    problems: Sequence[Problem] = ()

    def told(self) -> dict[str, Any]:
        """What its JSON has beside the rows."""
        return {
            "policy": self.policy.model_dump(mode="json"),
            # As on the page: what was found stands in the report of redteam.
            "attacks": [{key: value for key, value in one.items() if key != "found"} for one in self.attacks],
            "cost": list(self.cost), "pictures": [_plain(one) for one in self.pairs],
            "receipts": [one.to_dict() for one in self.receipts], "not_tested": list(self.untested),
            "open_problems": [asdict(one) for one in self.problems],
        }  # fmt: skip


def _plain(pair: Pair) -> Row:
    told = {key: value for key, value in vars(pair).items() if key not in ("before", "after", "sample")}
    return {**told, "prompt": pair.sample.prompt, "seed": pair.sample.seed, "asked": pair.sample.label}
