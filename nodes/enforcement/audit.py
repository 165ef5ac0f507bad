"""One line of JSON for every prompt of a guarded server, when it ended or was refused.

{time, prompt_id, client, policy, status, reason, seconds, samplings, opened: [{guard, gate, steps, text}], flagged:
[{guard, label, score, action}]}; status: success, error, refused, cancelled.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

from server import PromptServer

from conceptguard.receipt import Receipt

from .. import events

PAUSE = 0.2
GRACE = 5.0  # seconds until a prompt that is neither queued nor over counts as never accepted


class Audit:
    """Follows prompts and appends to a file. Raises OSError at once where it cannot be written."""

    def __init__(self, path: Path, policy: str):
        self._path, self._policy = path, policy
        self._pending: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
        threading.Thread(target=self._watch, name="conceptguard audit", daemon=True).start()

    def accepted(self, prompt: str, client: str) -> None:
        """A prompt was rewritten and handed on; its line follows when it is over."""
        with self._lock:
            self._pending[prompt] = time.time(), client

    def refused(self, prompt: str, client: str, reason: str) -> None:
        """A prompt that will not run."""
        self._write(prompt, client, "refused", reason, 0.0, [])

    def _watch(self) -> None:
        while True:
            time.sleep(PAUSE)
            with self._lock:
                pending = dict(self._pending)
            for prompt, (begin, client) in pending.items():
                try:
                    over = self._over(prompt, begin)
                    if over is not None:
                        self._write(prompt, client, *over, time.time() - begin, events.forget(prompt))
                        with self._lock:
                            del self._pending[prompt]
                except Exception:
                    logging.exception("ConceptGuard: the audit line of prompt %s could not be written", prompt)

    def _over(self, prompt: str, begin: float) -> tuple[str, str] | None:
        """(status, reason) of a prompt that is over; None while it is not."""
        queue = PromptServer.instance.prompt_queue
        running, queued = queue.get_current_queue_volatile()
        if any(item[1] == prompt for item in (*running, *queued)):
            return None
        status = (queue.get_history(prompt_id=prompt).get(prompt) or {}).get("status")
        if status is None:
            return ("cancelled", "not in the queue any more") if time.time() - begin > GRACE else None
        told = [data for kind, data in status["messages"] if kind in ("execution_error", "execution_interrupted")]
        reason = told[0].get("exception_message", "interrupted") if told else ""
        return str(status["status_str"]), str(reason).strip()

    def _write(
        self, prompt: str, client: str, status: str, reason: str, seconds: float, receipts: list[Receipt]
    ) -> None:
        opened = [
            {"guard": act.guard, "gate": round(gate, 4), "steps": len(act.steps), "text": row.text}
            for receipt in receipts
            for act in receipt.opened
            for row, gate in zip(receipt.rows, act.gates)
            if gate
        ]
        flagged = [
            {"guard": v.guard, "label": v.label, "score": round(v.score, 4), "action": receipt.action}
            for receipt in receipts
            for v in receipt.verdicts
            if v.flagged
        ]
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "prompt_id": prompt, "client": client, "policy": self._policy,
            "status": status, "reason": reason, "seconds": round(seconds, 2),
            "samplings": sum(receipt.steps > 0 for receipt in receipts), "opened": opened, "flagged": flagged,
        }  # fmt: skip
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
