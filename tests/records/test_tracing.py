"""Generations as OpenTelemetry spans: what they hold, whose children they are, and that they hold no prompt unasked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from image_guards import FlagsApples
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from text_guards import given
from tiny import generate
from tiny_language import tiny_gpt2, tokenizer

import conceptguard
from conceptguard.errors import Refused
from conceptguard.records.listeners import listen
from conceptguard.testing.kit_guards import BesideText, offered

OPENS = "a cigarette"


@pytest.fixture
def spans() -> Iterator[tuple[InMemorySpanExporter, TracerProvider]]:
    """What was exported, and who exports it."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter, provider
    provider.shutdown()


def plain(span: Any) -> str:
    return json.dumps([span.name, dict(span.attributes), [dict(event.attributes) for event in span.events]])


def test_a_generation_is_a_span(spans: Any, tiny: Any, policy: dict[str, Any]) -> None:
    exporter, provider = spans
    stop = conceptguard.instrument(provider)
    tracer = provider.get_tracer("caller")
    try:
        with conceptguard.attach(tiny, policy) as guard, tracer.start_as_current_span("request"):
            generate(tiny, OPENS)
            with guard.using({"name": "none", "guards": []}):
                generate(tiny, OPENS)
    finally:
        stop()
    first, second, request = exporter.get_finished_spans()
    assert first.parent.span_id == second.parent.span_id == request.context.span_id
    assert first.name == "generate_content" and first.attributes["gen_ai.output.type"] == "image"
    assert first.attributes["gen_ai.provider.name"] == "diffusers" and first.attributes["conceptguard.policy"] == "test"
    assert len(first.attributes["conceptguard.acted"]) == 1
    (event,) = first.events
    assert event.name == "conceptguard.guard" and event.attributes["conceptguard.guard.open"] == 1
    assert second.attributes["conceptguard.policy"] == "none" and not second.events
    assert OPENS not in plain(first) and first.start_time < first.end_time
    with conceptguard.attach(tiny, policy):
        generate(tiny, OPENS)
    assert len(exporter.get_finished_spans()) == 3, "none after it was stopped"


def test_prompts_are_in_it_where_that_is_asked_for(spans: Any, tiny: Any, policy: dict[str, Any]) -> None:
    exporter, provider = spans
    stop = conceptguard.instrument(provider, prompts=True)
    try:
        with conceptguard.attach(tiny, policy):
            generate(tiny, OPENS)
    finally:
        stop()
    (span,) = exporter.get_finished_spans()
    (said,) = json.loads(span.attributes["gen_ai.input.messages"])
    assert said["parts"][0]["content"] == OPENS


def test_text_is_a_span_of_its_own_kind(spans: Any) -> None:
    exporter, provider = spans
    tok = tokenizer()
    model = tiny_gpt2(tok)
    stop = conceptguard.instrument(provider)
    try:
        with offered(BesideText) as beside, conceptguard.attach((model, tok), {"name": "own", "guards": [beside]}):
            model.generate(**given(tok, "a red apple"), max_new_tokens=3, pad_token_id=tok.pad_token_id)
    finally:
        stop()
    (span,) = exporter.get_finished_spans()
    assert span.name == "text_completion" and span.attributes["gen_ai.output.type"] == "text"
    assert span.attributes["conceptguard.policy"] == "own" and span.attributes["conceptguard.steps"] == 3
    assert "a red apple" not in plain(span)


@pytest.mark.parametrize("prompts", [False, True])
def test_what_was_refused(prompts: bool, spans: Any, tiny: Any) -> None:
    """With what the guards found; the error's words, which may quote a prompt, only where prompts are asked for."""
    exporter, provider = spans
    stop = conceptguard.instrument(provider, prompts)
    try:
        with offered(FlagsApples) as flags, conceptguard.attach(tiny, {"guards": [flags]}), pytest.raises(Refused):
            tiny("a red apple", num_inference_steps=2)
    finally:
        stop()
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "Refused" and span.attributes["conceptguard.refused"] is True
    assert not span.status.is_ok and bool(span.status.description) == prompts
    assert ("exception" in [event.name for event in span.events]) == prompts


def test_a_listener_that_fails_costs_no_picture(
    tiny: Any, policy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(ended: Any) -> None:
        raise ConnectionError("no collector")

    stop = listen(fails)
    try:
        with conceptguard.attach(tiny, policy), caplog.at_level(logging.ERROR, "conceptguard"):
            generate(tiny, OPENS)
    finally:
        stop()
    assert "a listener to receipts failed" in caplog.text


def test_generations_inside_of_one_have_spans_of_their_own(spans: Any, tiny: Any, policy: dict[str, Any]) -> None:
    exporter, provider = spans
    stop = conceptguard.instrument(provider)
    try:
        with conceptguard.attach(tiny, policy):

            def look(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
                if index == 0:
                    generate(tiny, "a red apple", num_inference_steps=3)
                return values

            generate(tiny, OPENS, callback_on_step_end=look)
    finally:
        stop()
    inner, outer = exporter.get_finished_spans()
    assert (inner.attributes["conceptguard.steps"], outer.attributes["conceptguard.steps"]) == (3, 2)
    assert not inner.events and len(outer.events) == 1
