"""Every generation under a policy as an OpenTelemetry span, by the semantic conventions for generative AI.

Names from https://opentelemetry.io/docs/specs/semconv/gen-ai/ (in development there); what these have no name for is
under ``conceptguard.``. A guard that was open is an event of the span, and so is what a guard found in a picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import ConceptGuardError, Refused
from ..receipt import Receipt
from ..version import __version__
from .listeners import Ended, listen

_OPERATIONS = {"image": "generate_content", "text": "text_completion"}


def instrument(tracer_provider: Any = None, prompts: bool = False) -> Callable[[], None]:
    """Have every generation under a policy be a span, in all sessions; gives a function that ends this.

    ``pip install "conceptguard[telemetry]"``, an SDK and an exporter are yours to choose. A span is a child of the one
    that is current where the model was called.

    tracer_provider: by default OpenTelemetry's global one; prompts: whether spans hold what was asked for, and the
    words of guards and errors about it. Raises ConceptGuardError where OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        raise ConceptGuardError('traces need OpenTelemetry: pip install "conceptguard[telemetry]"') from None
    tracer = trace.get_tracer("conceptguard", __version__, tracer_provider)

    def span(ended: Ended) -> None:
        operation = _OPERATIONS[ended.kind]
        made = tracer.start_span(
            f"{operation} {ended.model}".rstrip(), start_time=ended.began, attributes=_attributes(ended, prompts)
        )
        for name, attributes in _events(ended.receipt, prompts):
            made.add_event(name, attributes, ended.ended)
        if ended.error is not None:
            if prompts:
                made.record_exception(ended.error, timestamp=ended.ended)
            made.set_status(trace.Status(trace.StatusCode.ERROR, str(ended.error) if prompts else None))
        made.end(ended.ended)

    return listen(span)


def _attributes(ended: Ended, prompts: bool) -> dict[str, Any]:
    receipt = ended.receipt
    told = receipt.summary()
    found: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS[ended.kind],
        "gen_ai.provider.name": receipt.host.split(" ", 1)[0],
        "gen_ai.request.model": ended.model,
        "gen_ai.output.type": ended.kind,
        "conceptguard.policy": receipt.policy,
        "conceptguard.host": receipt.host,
        "conceptguard.guards": len(receipt.acts),
        "conceptguard.acted": [act["guard"] for act in told["acted"]],
        "conceptguard.unsigned": told["unsigned"],
        "conceptguard.action": receipt.action,
        "conceptguard.steps": receipt.steps,
        "conceptguard.retries": receipt.retries,
    }
    if ended.error is not None:
        found["error.type"] = type(ended.error).__qualname__
        found["conceptguard.refused"] = isinstance(ended.error, Refused)
    if prompts:
        texts = [row.text for row in receipt.rows if row.text and row.branch in ("conditional", None)]
        said = [{"role": "user", "parts": [{"type": "text", "content": text}]} for text in texts]
        found["gen_ai.input.messages"] = json.dumps(said, ensure_ascii=False)
    return {name: value for name, value in found.items() if value not in (None, "")}


def _events(receipt: Receipt, prompts: bool) -> list[tuple[str, dict[str, Any]]]:
    told = receipt.summary(prompts)
    acted = [
        ("conceptguard.guard", {f"conceptguard.guard.{key}": value for key, value in act.items() if value is not None})
        for act in told["acted"]
    ]
    found = [
        (
            "gen_ai.evaluation.result",
            {
                "gen_ai.evaluation.name": f"{verdict['guard']} {verdict['label']}",
                "gen_ai.evaluation.score.value": verdict["score"],
                "gen_ai.evaluation.score.label": "flagged" if verdict["flagged"] else "passed",
                "conceptguard.image": verdict["image"],
            },
        )
        for verdict in told["verdicts"]
    ]
    return acted + found
