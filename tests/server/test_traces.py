"""A span for each stream: what it says, whose child it is, and whose parent; none unless asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from server.lines import line
from server.traces import Traces
from server.tracing import is_asked_for, tracing
from tests.limits import HANGS_S
from tests.server.support import REPOSITORY, create_app, prompt, run_async, settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


def exporting() -> tuple[TracerProvider, InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def names(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


class Ollama(httpx.AsyncBaseTransport):
    """Notes the headers of each call, and answers as the model says."""

    def __init__(self, calls: list[httpx.Headers], asked: asyncio.Event) -> None:
        self._calls = calls
        self._asked = asked

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._calls.append(request.headers)
        self._asked.set()
        if b'"hangs"' in request.content:
            await asyncio.Event().wait()
        if b'"missing"' in request.content:
            return httpx.Response(404, content=lines({"error": "no such model"}))
        return httpx.Response(200, content=lines({"message": {"content": "yes"}, "done": True}))


async def lines(*values: object) -> AsyncIterator[bytes]:
    for value in values:
        yield json.dumps(value).encode() + b"\n"


@asynccontextmanager
async def client(
    provider: TracerProvider, calls: list[httpx.Headers]
) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.Event]]:
    """A client of the server's, and what is set once Ollama was asked."""
    asked = asyncio.Event()
    app = create_app(
        settings(),
        signals=(),
        tracer_provider=provider,
        async_transport=lambda: Ollama(calls, asked),
    )
    headers = {"authorization": "Bearer devkey", "x-session-id": "chat-1"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000", headers=headers
        ) as http,
    ):
        yield http, asked


async def ask(http: httpx.AsyncClient, model: str, **headers: str) -> httpx.Response:
    body = prompt(model=model)
    return await http.post("/v1/chat/completions", json=body, headers=headers)


def test_a_stream_is_a_span_between_its_request_and_ollama() -> None:
    """Child of the request's traceparent, parent of what Ollama gets; superseded by name."""
    provider, exporter = exporting()
    calls: list[httpx.Headers] = []

    async def main() -> None:
        async with client(provider, calls) as (http, asked):
            hangs = asyncio.create_task(ask(http, "hangs", **TRACEPARENT))
            await asked.wait()
            answer = await ask(http, "normal", tracestate="a=b", **TRACEPARENT)
            superseded = await hangs
            assert (answer.status_code, superseded.status_code) == (200, 400)
            older, newer = (each.headers["x-trace-id"] for each in (superseded, answer))
            first, second = exporter.get_finished_spans()
            assert [(each.attributes or {})["onestream.trace"] for each in (first, second)] == [
                older,
                newer,
            ]
            assert names(first) == ["waiting", "active", "superseded", "stopping", "answer over"]
            assert dict(first.attributes or {}) == {
                "onestream.trace": older,
                "onestream.session": "chat-1",
                "onestream.stop_reason": "new_stream_registered",
                "onestream.superseded_by": newer,
                "onestream.end": "stopped",
                "onestream.reason": "superseded",
                "onestream.chunks": 0,
            }
            assert names(second) == ["waiting", "active", "first chunk", "answer over"]
            for span, headers in zip((first, second), calls, strict=True):
                assert span.context is not None
                assert span.parent is not None
                assert f"{span.context.trace_id:032x}" == TRACE
                assert f"{span.parent.span_id:016x}" == PARENT
                assert headers["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
            assert calls[1]["tracestate"] == "a=b"

    run_async(main())


def test_a_prompt_that_fails_is_an_error_of_its_span() -> None:
    """With what the log says of it; a traceparent that is none begins a trace of its own."""
    provider, exporter = exporting()
    calls: list[httpx.Headers] = []

    async def main() -> None:
        async with client(provider, calls) as (http, _):
            assert (await ask(http, "missing", traceparent="x" * 10_000)).status_code == 404
        (span,) = exporter.get_finished_spans()
        assert span.parent is None
        assert span.status.status_code is StatusCode.ERROR
        assert "no such model" in str(span.status.description)
        assert (span.attributes or {})["error.type"] == "model_not_found"
        assert len(calls[0]["traceparent"]) == 55

    run_async(main())


def test_a_span_lasts_until_the_stream_has_ended() -> None:
    """A detached stream's answer is over long before; nothing is kept of one that has ended."""
    provider, exporter = exporting()
    traces = Traces(provider.get_tracer("test"))
    traces.begin("a", {})
    over: dict[str, Any] = {"trace": "a", "way": "stopped", "reason": "superseded", "chunks": 1}
    for event in (
        line("stream_start", trace="a", trace_id="a", session="s"),
        line("stream_cancelled", trace="a", reason="new_stream_registered"),
        line("stream_over", **over),
        line("prev_stream_timeout_on_cancel", session="s", trace="a"),
    ):
        traces.hear(event)
    assert not exporter.get_finished_spans()
    traces.hear(line("stream_end", trace="a", stream_id="a", session="s", duration_ms=1))
    (span,) = exporter.get_finished_spans()
    assert names(span)[-2:] == ["answer over", "detached"]
    # One that was never let in has no other end than its answer's, and the end may come first.
    traces.begin("b", {})
    traces.hear(line("stream_over", **{**over, "trace": "b"}))
    traces.begin("c", {})
    traces.hear(line("stream_start", trace="c", trace_id="c", session="s"))
    traces.hear(line("stream_end", trace="c", stream_id="c", session="s", duration_ms=1))
    traces.hear(line("stream_over", **{**over, "trace": "c"}))
    assert len(exporter.get_finished_spans()) == 3
    assert not traces._running


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_spans_are_made_where_a_variable_says_where_they_go(
    environment: dict[str, str], expected: bool
) -> None:
    """OpenTelemetry's own variables, and its own switches."""
    assert is_asked_for(environment) is expected


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin' is not known"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' is not known",
        ),
    ],
)
def test_what_cannot_be_exported_is_a_line_of_the_log(
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And the server serves without spans."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        async with tracing(None) as traces:
            assert traces is None

    run_async(main())
    assert f"traces_off no spans are made: {said}" in caplog.text


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "onestream"),
        ({"OTEL_SERVICE_NAME": "chat"}, "chat"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=chat"}, "chat"),
    ],
)
def test_the_environment_makes_the_provider_and_its_end_waits_for_no_collector(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's name is the environment's; a collector that hangs keeps no process alive."""
    released = threading.Event()
    shut_down = TracerProvider.shutdown

    def hangs(provider: TracerProvider) -> None:
        assert provider.resource.attributes["service.name"] == expected
        released.wait()
        shut_down(provider)

    monkeypatch.setattr(TracerProvider, "shutdown", hangs)
    monkeypatch.setattr("server.tracing._SHUTDOWN_S", 0.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        async with tracing(None) as traces:
            assert traces is not None

    run_async(main())
    (ending,) = (each for each in threading.enumerate() if each.name == "onestream-traces")
    assert ending.daemon
    released.set()
    ending.join()


@pytest.mark.socket
@pytest.mark.thorough
def test_nothing_of_it_is_imported_unless_asked_for() -> None:
    """A start without its variables costs nothing; FastAPI itself imports the API."""
    code = """
import asyncio, sys
from server.app import create_app
from server.settings import Settings
app = create_app(Settings(), signals=())
async def main():
    async with app.router.lifespan_context(app):
        pass
asyncio.run(main())
print([name for name in ("opentelemetry.sdk", "server.traces") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        cwd=REPOSITORY,
        env={"PATH": ""},
    )
    assert done.stdout == "[]\n", done.stderr
