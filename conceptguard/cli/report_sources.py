"""Reports that were written before, as a report card takes them up: of the same policy and model, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Usage

if TYPE_CHECKING:
    from ..attacking.run import Plan

Row = dict[str, Any]


def attacks_of(file: Path, plan: Plan) -> list[Row]:
    """The rows of a report of redteam about the plan's concepts. Raises Usage for another command's, another policy's
    (artifacts and their files included) or another model's."""
    from ..attacking.kept import told_of

    whole = _read(file, "redteam")
    told = told_of(plan.policy)
    if {key: whole.get(key) for key in told} != json.loads(json.dumps(told)):
        raise Usage(f"--redteam {file}: made under another policy, or with other artifacts, than '{plan.policy.name}'")
    rows = [row for row in whole["rows"] if row.get("concept") in plan.concepts and row.get("model") == plan.model]
    if not rows:
        raise Usage(f"--redteam {file}: nothing in it about {', '.join(plan.concepts)} on {plan.model}")
    return rows


def figures_of(file: Path, plan: Plan) -> list[Row]:
    """The rows of a report of eval that judged a policy of this name, on this model. Raises Usage where there is none,
    or where they do not say of how many pictures they are."""
    rows = [
        row for row in _read(file, "eval")["rows"]
        if row.get("method") == plan.policy.name and row.get("model") == plan.model
    ]  # fmt: skip
    rows = [row for row in rows if not str(row["concept"]).startswith("mean of ")] or rows
    if not rows:
        raise Usage(f"--eval {file}: no row of '{plan.policy.name}' on {plan.model}: `conceptguard eval --policy`")
    if not all(f"n_{group}" in row for row in rows for group in ("erased", "neighbours", "others")):
        raise Usage(f"--eval {file}: written by an older version, which does not say of how many: run eval anew")
    return rows


def _read(file: Path, command: str) -> dict[str, Any]:
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        if whole["command"] != command or not all(isinstance(row, dict) for row in whole["rows"]):
            raise ValueError(f"no report of `conceptguard {command}`")
    except OSError as error:
        raise Usage(f"{file}: cannot be read ({error.strerror}): check the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Usage(f"{file}: no report of {command} that is whole ({error}): write it anew") from None
    return dict(whole)
