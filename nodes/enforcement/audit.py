"""One line of JSON for every prompt of a guarded server, when it ended, was refused or was taken from the queue.

{id, time, prompt_id, client, policy, status, reason, seconds, samplings, opened: [{guard, gate, steps, text, cached}],
flagged: [{guard, label, score, action, cached}]}; status: success, error, refused, cancelled. ``id`` is made here, one
for each line: a client chooses ``prompt_id`` and may use it again. ``cached`` tells that it was drawn or looked at for
an earlier prompt and is shown again. A line that cannot be written ends the server: nothing goes unrecorded.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import execution

from conceptguard.receipt import Receipt

from .taint import Held, Run, run

GONE = "conceptguard cancelled"  # in an item of the queue: it has its line


class Audit:
    """Appends to a file. Raises OSError at once where it cannot be written."""

    def __init__(self, path: Path, policy: str):
        self._path, self._policy = path, policy
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass

    def write(
        self, prompt: Any, client: Any, status: str, reason: str, seconds: float = 0.0, of: Run | None = None
    ) -> None:
        """of: what ran, if anything did"""
        receipts = _receipts(of or Run())
        line = {
            "id": uuid.uuid4().hex, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "prompt_id": str(prompt),
            "client": str(client or ""), "policy": self._policy, "status": status, "reason": reason,
            "seconds": round(seconds, 2), "samplings": sum(r.steps > 0 and not cached for r, cached in receipts),
            "opened": list(_opened(receipts)), "flagged": list(_flagged(receipts)),
        }  # fmt: skip
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            logging.critical("ConceptGuard: %s cannot be written (%s): the server ends", self._path, error.strerror)
            os._exit(1)


def _receipts(of: Run) -> list[tuple[Receipt, bool]]:
    """Each once, and whether it is of an earlier prompt, of which something is shown again."""
    shown = {id(r): (r, True) for birth in of.shown for r in birth.receipts}
    return list((shown | {id(r): (r, False) for r in of.receipts}).values())


def _opened(receipts: Iterable[tuple[Receipt, bool]]) -> Iterable[dict[str, Any]]:
    for receipt, cached in receipts:
        for act in receipt.opened:
            for row, gate in zip(receipt.rows, act.gates):
                if gate:
                    yield {"guard": act.guard, "gate": round(gate, 4), "steps": len(act.steps), "text": row.text,
                           "cached": cached}  # fmt: skip


def _flagged(receipts: Iterable[tuple[Receipt, bool]]) -> Iterable[dict[str, Any]]:
    for receipt, cached in receipts:
        for v in receipt.verdicts:
            if v.flagged:
                yield {"guard": v.guard, "label": v.label, "score": round(v.score, 4), "action": receipt.action,
                       "cached": cached}  # fmt: skip


def keep(audit: Audit) -> None:
    """From now on, for every prompt that runs and for every one that is taken from the queue before it could."""
    execute = execution.PromptExecutor.execute
    queue = execution.PromptQueue

    @wraps(execute)
    def recorded(self: Any, prompt: Any, prompt_id: Any, extra_data: Any = None, execute_outputs: Any = ()) -> None:
        of, begin, client = Run(), time.monotonic(), (extra_data or {}).get("client_id")
        token = run.set(of)
        status, reason = "error", "ended while it ran"
        try:
            execute(self, prompt, prompt_id, extra_data or {}, execute_outputs)
            status, reason = _ended(self.status_messages)
        finally:
            run.reset(token)
            audit.write(prompt_id, client, status, reason, time.monotonic() - begin, of)

    def noting(method: Any) -> Any:
        @wraps(method)
        def taken_away(self: Any, *arguments: Any) -> Any:
            with self.mutex:
                before, self.queue = self.queue, list(self.queue)
                answer = method(self, *arguments)
                for item in before:
                    if not any(item is left for left in self.queue) and GONE not in item[3]:
                        item[3][GONE] = True
                        audit.write(item[1], item[3].get("client_id"), "cancelled", "taken from the queue")
            return answer

        return taken_away

    execution.PromptExecutor.execute = recorded
    queue.wipe_queue, queue.delete_queue_item = noting(queue.wipe_queue), noting(queue.delete_queue_item)


def _ended(messages: Iterable[tuple[str, Any]]) -> tuple[str, str]:
    for kind, data in messages:
        if kind == "execution_error":
            refused = data.get("exception_type", "").endswith("." + Held.__name__)
            return "refused" if refused else "error", str(data.get("exception_message", "")).strip()
        if kind == "execution_interrupted":
            return "error", "interrupted"
    return "success", ""
