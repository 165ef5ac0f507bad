"""Receipts: what every guard did to one generation. What stands here is what ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .generation import Verdict


@dataclass
class Act:
    """One guard in one generation.

    gates: how far it was open, per row of ``Receipt.rows``; steps: the denoiser calls in which its terms ran
    layers: how many layers carry its terms; notes: what else it did, in its own words
    """

    guard: str
    strength: float
    layers: int = 0
    gates: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One condition of the batch. text is None where the caller passed embeddings the session had not seen encoded."""

    text: str | None
    branch: str | None


@dataclass
class Receipt:
    """The record of one generation. retries: how often it was drawn again because an image was flagged."""

    policy: str
    host: str
    device: str
    dtype: str
    acts: list[Act] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    action: str | None = None
    retries: int = 0
    steps: int = 0
    seconds: float = 0.0

    @property
    def opened(self) -> list[Act]:
        """The guards that acted on at least one row."""
        return [act for act in self.acts if act.steps]

    def to_dict(self) -> dict[str, Any]:
        """The whole receipt as plain data, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.host} ({self.device}, {self.dtype})"
        lines = [f"policy {self.policy} on {where}: {self.steps} steps, {self.seconds:.2f} s"]
        for act in self.opened:
            for row, gate in zip(self.rows, act.gates):
                if gate:
                    named = repr(row.text) if row.text is not None else "embeddings"
                    lines.append(
                        f"  {act.guard}: open {gate:.2f} on {named}, {len(act.steps)} steps, {act.layers} layers"
                    )
        lines += [f"  {act.guard}: {note}" for act in self.acts for note in act.notes]
        lines += [
            f"  {v.guard}: image {v.image} {v.label} {v.score:.2f}{' -> ' + str(self.action) if v.flagged else ''}"
            for v in self.verdicts
        ]
        if len(lines) == 1:
            lines.append(f"  none of {len(self.acts)} guards acted")
        return "\n".join(lines)
