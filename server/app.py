"""The application: `app` for `python -m uvicorn server.app:app`, `create_app` to embed it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from registry import StreamRegistry
from registry.daemon_executor import DaemonExecutor
from server import (
    documented,
    early,
    endpoints,
    http_protocol,
    log,
    metrics_port,
    metrics_routes,
    page_routes,
    shutdown,
    startup,
)
from server.browsers import Cors
from server.connection import ABORT_KEY, abort_of
from server.environment import read_settings
from server.errors import ApiError
from server.front import Front
from server.lines import line
from server.metrics import Metrics
from server.metrics_routes import MetricsAlone
from server.ollama_async import AsyncOllama, AsyncTransportFactory
from server.ollama_thread import ThreadOllama, ThreadTransportFactory
from server.opening import opened
from server.refusals import log_no_request
from server.registries import Registry
from server.routes import on_api_error, on_http_error, on_invalid, open_router, prompts, router
from server.security import Keys, StartRefused, check_address, check_upstream, read_keys
from server.service import Service
from server.settings import DEVKEY, Settings
from server.spellings import one_spelling
from server.stores.leased_registry import LeasedRegistry
from server.supervised import ending_with_supervisor, take_interrupts
from server.tracing import tracing
from server.unforeseen import Unforeseen, once

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from server.traces import Traces

early.import_all()

_logger = logging.getLogger("onestream.server")

# SIGHUP, where there is one: the terminal was closed.
HEARD = (*shutdown.TERMINATING, *shutdown.HANGING_UP)


class OneStream(FastAPI):
    """FastAPI behind the front; `state.service` is there from the start-up to the shut-down.

    Middleware that users add is outside of ours, as `add_middleware` puts it before the rest.
    """

    def __init__(self, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> None:
        super().__init__(
            title="onestream",
            lifespan=lifespan,
            redirect_slashes=False,
            # Pages that load scripts from another site: `page_routes.docs` takes their place.
            docs_url=None,
            redoc_url=None,
            middleware=[
                Middleware(Cors, settings_of=self._settings),
                Middleware(one_spelling),
                Middleware(Front, service_of=self._service),
                Middleware(Unforeseen, on_error=on_api_error),
            ],
        )
        self.state.service = None
        self.state.docs = None

    def _service(self) -> Service | None:
        service: Service | None = self.state.service
        return service

    def _settings(self) -> Settings | None:
        service = self._service()
        return None if service is None else service.settings

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = documented.openapi(self)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.root_path:
            # FastAPI does so as well, but behind the front, which has to see what the router sees.
            scope["root_path"] = self.root_path
        if scope["type"] == "lifespan":
            await startup.quietly(super().__call__, scope, receive, send)
            return
        # Here `send` is still the server's own.
        scope[ABORT_KEY] = abort_of(send)
        # Not each server has one; here it is of the whole way, also where the scope is copied.
        scope.setdefault("state", {})
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    *,
    new_registry: Callable[[Settings], Registry] | None = None,
    executor: Executor | None = None,
    async_transport: AsyncTransportFactory | None = None,
    thread_transport: ThreadTransportFactory | None = None,
    new_trace_id: Callable[[], str] = lambda: secrets.token_hex(8),
    wall_clock: Callable[[], float] = time.time,
    signals: Sequence[signal.Signals] = HEARD,
    tracer_provider: TracerProvider | None = None,
) -> FastAPI:
    """The application. Nothing is read or opened before its lifespan starts.

    settings: read from the environment at the start-up if None.
    new_registry: makes the registry of a lifespan, instead of one by the settings; a registry
    that was closed stays closed, so each start-up needs its own.
    executor: where the blocking Ollama client runs; daemon threads of our own if None.
    async_transport, thread_transport: make the httpx transport of each call to Ollama.
    new_trace_id: draws the name of each request; must never draw one twice.
    wall_clock: seconds since 1970, for the wire's `created`; all else reads the loop's clock.
    signals: what ends every stream before the server reacts; empty to be left alone.
    tracer_provider: OpenTelemetry's, of the program around; as OTEL_… variables say if None.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.configure()
        limits = settings or _settings()
        log.configure(limits.log)
        server = shutdown.uvicorn_around()
        take_interrupts(server)
        if server is not None:
            log.never_block()
        keys = _keys_for(limits, server, partial(_no_request, app), is_left_alone=not signals)
        if signals and startup.is_served_by_another(server):
            _logger.warning(line("server_unknown", startup.OTHER_SERVER))
        try:
            async with tracing(tracer_provider) as traces, _registry_for(limits) as registry:
                service = _service(limits, keys, registry, traces)
                app.state.service = service
                service.start()
                with (
                    shutdown.hearing(signals, partial(begin_shutdown, service, server)),
                    ending_with_supervisor(server if signals else None),
                ):
                    async with _until_shut_down(service):
                        yield
        finally:
            app.state.service = None
            log.end()

    @asynccontextmanager
    async def _registry_for(limits: Settings) -> AsyncIterator[Registry]:
        """The one of this lifespan. Raises StartRefused where its store cannot be used."""
        if new_registry is not None or not limits.shares_sessions:
            yield new_registry(limits) if new_registry else _registry(limits, executor)
            return
        leased = await opened(limits, executor)
        try:
            yield leased
        finally:
            await leased.end()

    def _service(
        limits: Settings, keys: Keys, registry: Registry, traces: Traces | None
    ) -> Service:
        leased = registry if isinstance(registry, LeasedRegistry) else None
        lister = AsyncOllama(
            limits.ollama_host,
            connect_s=limits.connect_seconds,
            headers=limits.ollama_upstream_headers,
            new_transport=async_transport,
        )
        return Service(
            settings=limits,
            keys=keys,
            registry=registry,
            client=lister if limits.ollama_client == "async" else _thread_client(limits),
            lister=lister,
            new_trace_id=new_trace_id,
            wall_clock=wall_clock,
            leased=leased,
            traces=traces,
            metrics=None if limits.metrics == "off" else Metrics(_loop_time()),
            directory=None if leased is None else leased.directory,
        )

    def _thread_client(limits: Settings) -> ThreadOllama:
        return ThreadOllama(
            limits.ollama_host,
            connect_s=limits.connect_seconds,
            read_s=max(limits.first_chunk_seconds, limits.stream_inactivity_seconds)
            + limits.grace_seconds,
            headers=limits.ollama_upstream_headers,
            new_transport=thread_transport,
        )

    app = OneStream(lifespan)
    app.include_router(prompts)
    app.include_router(router)
    app.include_router(endpoints.router)
    app.include_router(open_router)
    app.include_router(page_routes.router)
    app.include_router(metrics_routes.router)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, once(on_api_error))
    return app


def begin_shutdown(service: Service, server: uvicorn.Server | None) -> None:
    others_serve = server is not None and startup.workers_of(server) > 1
    if others_serve:
        # uvicorn would go on to accept until its next tick, and refuse what comes.
        for listening in getattr(server, "servers", ()):
            listening.close()
    service.begin_shutdown(others_serve=others_serve)


def _no_request(app: FastAPI, error: ApiError) -> str:
    """Logs that something came which is no request, and names it."""
    service: Service | None = app.state.service
    if service is None:
        return ""
    trace_id = service.new_trace_id()
    log_no_request(service.events, trace_id, error)
    return trace_id


def _settings() -> Settings:
    """Those of the environment. Raises StartRefused, which ends the start-up."""
    try:
        return read_settings()
    except StartRefused as exc:
        _logger.error(line("start_refused", str(exc)))
        raise


def _loop_time() -> Callable[[], float]:
    return asyncio.get_running_loop().time


@asynccontextmanager
async def _until_shut_down(service: Service) -> AsyncIterator[None]:
    """With its port, if it has one; it is shut down unless a cancel is in a hurry."""
    try:
        async with _metrics_port_of(service):
            yield
    except Exception:
        await service.shut_down()
        raise
    await service.shut_down()


def _metrics_port_of(service: Service) -> AbstractAsyncContextManager[None]:
    if not service.settings.metrics_listen:
        return nullcontext()
    return metrics_port.listening(MetricsAlone(service), service.settings, service.worker)


def _registry(settings: Settings, executor: Executor | None) -> StreamRegistry:
    return StreamRegistry(
        grace_s=settings.grace_seconds,
        queue_max=settings.queue_max,
        queue_s=settings.queue_seconds,
        executor=executor or DaemonExecutor(settings.threads_max),
    )


def _keys_for(
    settings: Settings,
    server: uvicorn.Server | None,
    on_no_request: Callable[[ApiError], str],
    *,
    is_left_alone: bool,
) -> Keys:
    """The keys, if they suit the processes and the address that uvicorn is about to serve.

    Raises StartRefused, which ends the start-up.
    """
    try:
        keys = read_keys(settings)
        startup.check_processes(server, sessions=settings.sessions, is_left_alone=is_left_alone)
        if server is not None:
            host = shutdown.listening_host(server)
            check_address(keys, host)
            if host is not None:
                check_upstream(settings, host, server.config.port)
            shutdown.bound_exit(server, settings.grace_seconds)
            http_protocol.use_for(server, settings, on_no_request)
    except StartRefused as exc:
        _logger.error(line("start_refused", str(exc)))
        raise
    if not keys:
        sentence = f"the key {DEVKEY!r} is in use, on loopback only; set JARVIS_API_KEYS"
        _logger.warning(line("no_keys_configured", sentence))
    return Keys(keys, has_store=settings.shares_sessions)


app = create_app()
