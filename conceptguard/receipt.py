"""Receipts: what every guard did to one generation. What stands here is what ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

SHOWN = 8  # changes of tokens that a printed receipt lists; ``to_dict`` has all of them


@dataclass
class Verdict:
    """What a guard found in one image. score in [0, 1]; boxes in pixels (left, top, right, bottom).

    detector: what looked, with a hash of its weights, where scores depend on it
    """

    image: int
    guard: str
    label: str
    score: float
    flagged: bool
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    detector: str = ""


@dataclass
class Reading:
    """How a guard read a prompt. prompt: which of ``Receipt.rows``; score: in [0, 1] where it has one."""

    prompt: int
    label: str
    score: float | None = None


@dataclass
class Touch:
    """Tokens that a guard forbade, penalised or forced where they, or others, were within reach.

    row: of that call; under beam search rows change places
    position: of the token in the row's text, from 0, the prompt not counted
    """

    row: int
    position: int
    tokens: list[str]
    change: str


@dataclass
class TakenBack:
    """A sentence or a word that was unsaid. position: of its first token; what it said is not kept.

    label, score: what a sentence was about; none of a word that would have ended in a phrase
    """

    row: int
    position: int
    label: str = ""
    score: float = 0.0


@dataclass
class Act:
    """One guard in one generation.

    gates: how far it was open, per row of ``Receipt.rows``; steps: the denoiser calls in which its terms ran
    layers: how many layers carry its terms; notes: what else it did, in its own words
    signed: whose signatures its artifact has, or ``unsigned``; None where it has no artifact
    readings, touched, taken_back: of a language model's prompts, tokens and sentences
    """

    guard: str
    strength: float
    layers: int = 0
    signed: str | None = None
    gates: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    touched: list[Touch] = field(default_factory=list)
    taken_back: list[TakenBack] = field(default_factory=list)


class Acting(Protocol):
    """Whoever has an entry in a receipt."""

    act: Act


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
        return [act for act in self.acts if act.steps or act.touched or act.taken_back]

    def to_dict(self) -> dict[str, Any]:
        """The whole receipt as plain data, ready for JSON."""
        return asdict(self)

    def summary(self, prompts: bool = False, image: int | None = None) -> dict[str, Any]:
        """What fits a header or a picture's metadata: the policy, the guards that acted, what was found.

        prompts: whether the prompts are in it, and the guards' own words, which may quote them; image: of which
        picture of the call alone, by default of all of them
        """
        drawn = [i for i, row in enumerate(self.rows) if row.branch in ("conditional", None)]
        each = image is not None and image < len(drawn)
        rows = [drawn[image]] if each and image is not None else list(range(len(self.rows)))
        found = [v for v in self.verdicts if image is None or v.image == image]
        told: dict[str, Any] = {
            "policy": self.policy, "host": self.host, "device": self.device, "dtype": self.dtype,
            "guards": len(self.acts), "acted": [own for act in self.acts if (own := _acted(act, rows, prompts))],
            "unsigned": [act.guard for act in self.acts if act.signed == "unsigned"],
            "verdicts": [
                {"image": v.image, "guard": v.guard, "label": v.label, "score": round(v.score, 4), "flagged": v.flagged}
                for v in found
            ],
            "action": self.action if any(v.flagged for v in found) else None,
            "retries": self.retries, "steps": self.steps, "seconds": round(self.seconds, 3),
        }  # fmt: skip
        if prompts:
            told["prompts"] = [self.rows[i].text for i in rows if i in drawn]
        return told

    def __str__(self) -> str:
        where = f"{self.host} ({self.device}, {self.dtype})"
        lines = [f"policy {self.policy} on {where}: {self.steps} steps, {self.seconds:.2f} s"]
        for act in self.opened:
            for row, gate in zip(self.rows, act.gates):
                if gate and act.steps:
                    named = repr(row.text) if row.text is not None else "embeddings"
                    lines.append(
                        f"  {act.guard}: open {gate:.2f} on {named}, {len(act.steps)} steps, {act.layers} layers"
                    )
        lines += [f"  {act.guard}: {told}" for act in self.acts for told in (*self._text(act), *act.notes)]
        lines += [
            f"  {v.guard}: image {v.image} {v.label} {v.score:.2f}{' -> ' + str(self.action) if v.flagged else ''}"
            for v in self.verdicts
        ]
        if len(lines) == 1:
            lines.append(f"  none of {len(self.acts)} guards acted")
        unsigned = [act.guard for act in self.acts if act.signed == "unsigned"]
        if unsigned:
            lines.append(f"  unsigned: {', '.join(unsigned)}")
        return "\n".join(lines)

    def _text(self, act: Act) -> Iterator[str]:
        """What a guard did to a language model's text, line by line."""
        for reading in act.readings:
            score = "" if reading.score is None else f" {reading.score:.2f}"
            yield f"read {self.rows[reading.prompt].text!r} as {reading.label}{score}"
        for touch in act.touched[:SHOWN]:
            tokens = ", ".join(map(repr, touch.tokens))
            yield f"{touch.change} {tokens} at token {touch.position} of row {touch.row}"
        if len(act.touched) > SHOWN:
            yield f"and so on, {len(act.touched)} times in all"
        for back in act.taken_back:
            what = f"sentence, {back.label} {back.score:.2f}," if back.label else "word"
            yield f"took back a {what} at token {back.position} of row {back.row}"


def _acted(act: Act, rows: list[int], prompts: bool) -> dict[str, Any] | None:
    """What a guard did on some rows; None where it did nothing there."""
    gates = [act.gates[i] for i in rows if i < len(act.gates)]
    opened = max(gates, default=0.0)
    notes = [note for note in act.notes if not note.startswith("stands aside")]
    if not (opened or act.touched or act.taken_back or (notes and not act.gates)):  # a gate says of which row
        return None
    told = {
        "guard": act.guard, "strength": act.strength,
        "open": round(opened, 4), "steps": len(act.steps) if opened else 0,
        "touched": len(act.touched), "taken_back": len(act.taken_back), "signed": act.signed,
    }  # fmt: skip
    return {**told, "notes": notes} if prompts else told
