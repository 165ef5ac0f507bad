"""What the page is told while something runs, and which receipts belong to which prompt.

``conceptguard.receipt`` after a step of a guarded sampling: {node, receipts, prompt_id, policy, done, stopped, step,
seconds, rows: [{text, branch}], guards, acts: [{guard, strength, open, gates, steps, layers, notes}]}; ``receipts`` are
the Receipt nodes that tell of ``node``'s model, ``stopped`` tells whether it ended before its time, ``guards`` is how
many guards there are, ``acts`` has those that are open; ``open`` is the most of its gates, ``steps`` in how many steps
it acted.
``conceptguard.report`` when images were looked at: {node, prompt_id, action, flagged, held, message, verdicts: [{image,
guard, label, score, flagged}]}; ``held`` tells whether an image was kept from going on.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

from conceptguard.receipt import Receipt

PAUSE = 0.1  # seconds between two messages of one sampling: bars need no more
GUARD, RECEIPT = "ConceptGuardModel", "ConceptGuardReceipt"
_KEPT = 64
_receipts: OrderedDict[int | None, list[Receipt]] = OrderedDict()  # by task


def prompt_id() -> str | None:
    """Of the prompt that runs."""
    context = get_executing_context()
    return context.prompt_id if context else None


def _task() -> int | None:
    """Which of the server's tasks runs: a prompt's id is the client's, who may use it again."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        return next((task for task, item in queue.currently_running.items() if item[1] == prompt_id()), None)


def receipts() -> list[Receipt]:
    """Of the guarded samplings and looks of the prompt that runs, so far, in order."""
    return list(_receipts.get(_task(), ()))


def texts() -> list[str]:
    """Every text in the graph that runs: what may have been encoded for it."""
    inputs = [value for node in _graph().values() for value in node.get("inputs", {}).values()]
    return ["", *dict.fromkeys(value for value in inputs if isinstance(value, str) and value)]


def _graph() -> dict[str, Any]:
    """The graph that runs, as it was posted."""
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return next((item[2] for item in running if item[1] == prompt_id()), {})


def _readers(graph: dict[str, Any], node: str) -> list[str]:
    """The Receipt nodes whose MODEL is ``node``'s, whatever else it went through."""
    return [key for key, each in graph.items() if each.get("class_type") == RECEIPT and _guard_of(graph, key) == node]


def _guard_of(graph: dict[str, Any], node: str | None) -> str | None:
    """The nearest Guard Model upstream of a node."""
    seen: set[str] = set()
    while node in graph and node not in seen:
        seen.add(node)
        inputs = graph[node].get("inputs", {})
        link = inputs.get("model", inputs.get("guider"))
        node = str(link[0]) if isinstance(link, list) else None
        if graph.get(node or "", {}).get("class_type") == GUARD:
            return node
    return None


def teller(node: str) -> Callable[[Receipt, bool], None]:
    """For a host's ``on_step``: sends the receipt to whoever queued the prompt.

    node: the guard's own; where ComfyUI took the guarded MODEL from its cache, the same guard may be another node of
    the graph that runs now
    """
    last = 0.0

    def tell(receipt: Receipt, done: bool) -> None:
        nonlocal last
        now, prompt = time.monotonic(), prompt_id()
        if done:
            keep(receipt)
        elif now - last < PAUSE:
            return
        last = now
        graph, context = _graph(), get_executing_context()
        guard = _guard_of(graph, context.node_id if context else None) or node
        to = {"node": guard, "receipts": _readers(graph, guard), "prompt_id": prompt}
        # A sampling that was cancelled or failed ends while its exception is on its way.
        stopped = done and sys.exc_info()[0] is not None
        send("conceptguard.receipt", {**to, "done": done, "stopped": stopped, **plain(receipt)})

    return tell


def send(event: str, data: dict[str, Any]) -> None:
    """To the client whose prompt runs."""
    server = PromptServer.instance
    server.send_sync(event, data, server.client_id)


def keep(receipt: Receipt) -> None:
    """One more of the prompt that runs."""
    task = _task()
    _receipts.setdefault(task, []).append(receipt)
    _receipts.move_to_end(task)
    while len(_receipts) > _KEPT:
        _receipts.popitem(last=False)


def plain(receipt: Receipt) -> dict[str, Any]:
    """As the page is told of it."""
    return {
        "policy": receipt.policy, "step": receipt.steps, "seconds": round(receipt.seconds, 3),
        "rows": [{"text": row.text, "branch": row.branch} for row in receipt.rows],
        "acts": [
            {"guard": act.guard, "strength": act.strength, "open": round(max(act.gates, default=0.0), 4),
             "gates": [round(gate, 4) for gate in act.gates], "steps": len(act.steps), "layers": act.layers,
             "notes": list(act.notes)}
            for act in receipt.acts
            if any(act.gates) or act.notes  # of a thousand guards a page needs the few
        ],
        "guards": len(receipt.acts),
    }  # fmt: skip
