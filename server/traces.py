"""A span of OpenTelemetry for each stream, from its events: the extra `otel`.

Imported only where OTEL_… variables ask for it (`tracing.py`). The span begins with the prompt and
ends when the stream has ended, its clean-up included. Its parent is what the request's
`traceparent` names, and Ollama gets the span as its own parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from registry.operations import Logged
from registry.wording import (
    NEW_STREAM_REGISTERED,
    STREAM_CANCELLED,
    STREAM_END,
    STREAM_START,
    TIMEOUT_ON_CANCEL,
)
from server.archive import Way
from server.events import FIRST_CHUNK, OVER
from server.refusals import FAILED

_PROPAGATOR = TraceContextTextMapPropagator()
# Headers that carry a context.
_CARRIERS = ("traceparent", "tracestate")
PREFIX = "onestream."


@dataclass
class _Running:
    span: Span
    # It ends when both are over: the stream, if it was let in, and its answer.
    is_stream_open: bool = False
    is_answer_open: bool = True


class Traces:
    """A listener of one application's events. Belongs to the loop's thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # By trace id (ours), from the prompt until its stream has ended.
        self._running: dict[str, _Running] = {}

    def begin(self, trace_id: str, headers: Mapping[str, str]) -> dict[str, str]:
        """A prompt has come: begins its span, and answers with the headers for Ollama."""
        carrier = {name: headers[name] for name in _CARRIERS if name in headers}
        span = self._tracer.start_span(
            "stream",
            context=_PROPAGATOR.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={f"{PREFIX}trace": trace_id},
        )
        span.add_event("waiting")
        self._running[trace_id] = _Running(span)
        outgoing: dict[str, str] = {}
        _PROPAGATOR.inject(outgoing, set_span_in_context(span))
        return outgoing

    def hear(self, event: Logged) -> None:
        handler = _HANDLERS.get(event.event)
        if handler is None:
            return
        fields = dict(event.fields)
        running = self._running.get(str(fields["trace"]))
        if running is not None:
            handler(self, running, fields)

    # -- the events

    def _started(self, running: _Running, fields: Mapping[str, object]) -> None:
        running.is_stream_open = True
        running.span.set_attribute(f"{PREFIX}session", str(fields["session"]))
        running.span.add_event("active")

    def _first_chunk(self, running: _Running, fields: Mapping[str, object]) -> None:
        running.span.add_event("first chunk")

    def _cancelled(self, running: _Running, fields: Mapping[str, object]) -> None:
        reason = str(fields["reason"])
        running.span.set_attribute(f"{PREFIX}stop_reason", reason)
        # One that waits leaves at once, and has nothing to stop.
        name = "superseded" if reason == NEW_STREAM_REGISTERED else "cancelled"
        running.span.add_event(name, {"reason": reason})
        if running.is_stream_open:
            running.span.add_event("stopping")

    def _detached(self, running: _Running, fields: Mapping[str, object]) -> None:
        running.span.add_event("detached")

    def _failed(self, running: _Running, fields: Mapping[str, object]) -> None:
        running.span.set_status(Status(StatusCode.ERROR, str(fields["reason"])))

    def _over(self, running: _Running, fields: Mapping[str, object]) -> None:
        way = Way(fields["way"])
        span = running.span
        span.set_attributes(
            {
                f"{PREFIX}end": way.value,
                f"{PREFIX}reason": str(fields["reason"]),
                f"{PREFIX}chunks": int(str(fields["chunks"])),
            }
        )
        if newer := fields.get("superseded_by"):
            span.set_attribute(f"{PREFIX}superseded_by", str(newer))
        if way in (Way.FAILED, Way.REFUSED):
            # A description that was set before stays.
            span.set_attribute("error.type", str(fields["reason"]))
        span.add_event("answer over")
        running.is_answer_open = False
        self._end_if_over(running, fields)

    def _ended(self, running: _Running, fields: Mapping[str, object]) -> None:
        running.is_stream_open = False
        self._end_if_over(running, fields)

    def _end_if_over(self, running: _Running, fields: Mapping[str, object]) -> None:
        if not running.is_answer_open and not running.is_stream_open:
            del self._running[str(fields["trace"])]
            running.span.end()


_HANDLERS: dict[str, Callable[[Traces, _Running, Mapping[str, object]], None]] = {
    STREAM_START: Traces._started,
    FIRST_CHUNK: Traces._first_chunk,
    STREAM_CANCELLED: Traces._cancelled,
    TIMEOUT_ON_CANCEL: Traces._detached,
    FAILED: Traces._failed,
    OVER: Traces._over,
    STREAM_END: Traces._ended,
}
