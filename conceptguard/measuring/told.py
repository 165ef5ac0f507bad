"""What a receipt says of one picture of a call, in words that fit a line."""

from __future__ import annotations

from typing import Any

from ..receipt import Receipt


def acts(record: Receipt | None, text: str, image: int) -> dict[str, Any]:
    """Which guards were open on a prompt, and what was found in its picture."""
    if record is None:
        return {"guards": ""}
    opened = {
        act.guard: gate
        for act in record.opened
        for row, gate in zip(record.rows, act.gates)
        if gate and row.text == text and row.branch == "conditional"
    }
    found = [f"{v.label} ({record.action})" for v in record.verdicts if v.image == image and v.flagged]
    return {"guards": ", ".join(f"{guard} {gate:.2f}" for guard, gate in opened.items()), "found": ", ".join(found)}
