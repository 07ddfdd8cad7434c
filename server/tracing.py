"""Whether spans are made, and where they go: OpenTelemetry's own variables say so.

Nothing of OpenTelemetry's SDK is imported where they do not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from server.lines import line

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from server.traces import Traces

_logger = logging.getLogger("onestream.server")

# Each of them names where spans go.
_ASKING = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
# What is not exported by then is lost: the process ends within the grace and a second.
_SHUTDOWN_S = 0.5


def is_asked_for(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(environment.get(name, "").strip() for name in _ASKING)


@asynccontextmanager
async def tracing(provider: TracerProvider | None) -> AsyncIterator[Traces | None]:
    """provider: of the program around us; else one as the environment has it, or no traces."""
    if provider is not None:
        yield _traces(provider)
        return
    own = _provider_of_environment() if is_asked_for(os.environ) else None
    if own is None:
        yield None
        return
    try:
        yield _traces(own)
    finally:
        await _shut_down(own)


def _traces(provider: TracerProvider) -> Traces:
    from server.traces import Traces

    return Traces(provider.get_tracer("onestream"))


def _provider_of_environment() -> Any:
    """None where it cannot be had: spans are no reason to serve nobody; the log says why."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        return _off(f"OpenTelemetry is not installed ({exc}): pip install 'onestream[otel]'")
    exporter = _exporter(os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower())
    if exporter is None:
        return None
    is_named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if is_named else {"service.name": "onestream"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> Any:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name not in ("", "otlp"):
        return _off(f"OTEL_TRACES_EXPORTER={name[:40]!a} is not known here: otlp or console")
    protocol = os.environ.get(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    )
    if protocol != "http/protobuf":
        return _off(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol[:40]!a} is not known: http/protobuf is")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        return _off(f"its exporter is not installed ({exc}): pip install 'onestream[otel]'")
    return OTLPSpanExporter()


def _off(why: str) -> None:
    _logger.warning(line("traces_off", f"no spans are made: {why}"))


async def _shut_down(provider: Any) -> None:
    """It exports what is left, and may wait for a collector that is away."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut_down, name="onestream-traces", daemon=True).start()
    waiting = asyncio.ensure_future(done.wait())
    await asyncio.wait({waiting}, timeout=_SHUTDOWN_S)
    waiting.cancel()
