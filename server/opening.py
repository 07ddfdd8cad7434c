"""Makes the store and the registry that the settings ask for."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from registry.daemon_executor import DaemonExecutor
from registry.lease_records import LeaseLimits
from registry.lease_state import LimitsDiffer
from registry.protocol import DETACHED_MAX, DETACHED_PER_SESSION_MAX
from server import store_address
from server.lines import line
from server.security import StartRefused
from server.settings import Settings
from server.stores import wording
from server.stores.directory import Directory
from server.stores.leased_registry import LeasedRegistry
from server.stores.sqlite_file import default_path
from server.stores.sqlite_store import SqliteStore
from server.stores.store import SessionStore, StoreRefused, StoreUnreachable

_logger = logging.getLogger("onestream.server")

# A lease is renewed so often within its time that three lost requests do no harm.
_RENEWALS = 4


class _Store(SessionStore, Protocol):
    @property
    def directory(self) -> Directory: ...


def leased_registry(settings: Settings, executor: Executor | None) -> LeasedRegistry:
    """Not started. Raises StartRefused where the store's client is not installed."""
    worker = worker_name()
    store = _store(settings, worker)
    return LeasedRegistry(
        store,
        worker,
        clock=_clock(settings),
        queue_s=settings.queue_seconds,
        executor=executor or DaemonExecutor(settings.threads_max),
        renew_s=settings.lease_seconds / _RENEWALS,
        directory=store.directory,
    )


async def opened(settings: Settings, executor: Executor | None) -> LeasedRegistry:
    """Started. Raises StartRefused where the store does not answer, or cannot be used."""
    try:
        registry = leased_registry(settings, executor)
        try:
            await registry.start()
        except BaseException:
            await registry.end()
            raise
    except (StoreRefused, StoreUnreachable, LimitsDiffer, StartRefused) as exc:
        _logger.error(line("start_refused", wording.sentence(exc)))
        raise StartRefused(wording.sentence(exc)) from exc
    _logger.info(line("sessions_shared", worker=registry.worker, store=_shown(settings)))
    return registry


async def check_store(settings: Settings) -> None:
    """Raises StartRefused where the workers' store does not answer, or cannot be used."""
    if not settings.shares_sessions:
        return
    store = _store(settings, worker_name())
    try:
        await store.start()
    except (StoreRefused, StoreUnreachable, LimitsDiffer) as exc:
        raise StartRefused(wording.sentence(exc)) from exc
    finally:
        await store.close()


def worker_name() -> str:
    """One that no worker ever had before, and that shows where it runs."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


def limits_of(settings: Settings) -> LeaseLimits:
    return LeaseLimits(
        lease_ms=_ms(settings.lease_seconds),
        margin_ms=_ms(settings.lease_margin_seconds),
        grace_ms=_ms(settings.grace_seconds),
        lag_ms=_ms(settings.lease_lag_seconds),
        detached_per_session_max=DETACHED_PER_SESSION_MAX,
        detached_max=DETACHED_MAX,
        queue_max=settings.queue_max,
        repeat_ms=_ms(settings.repeat_seconds),
    )


def _store(settings: Settings, worker: str) -> _Store:
    limits = limits_of(settings)
    if store_address.is_sqlite(settings.sessions):
        path = store_address.sqlite_path(settings.sessions) or default_path()
        return SqliteStore(path, limits, worker)
    try:
        # Not with the others: who needs no Redis need not install its client.
        from server.stores.redis_store import RedisStore
    except ImportError as exc:
        raise StartRefused(
            f"JARVIS_SESSIONS names a Redis, and its client is not installed ({exc}): "
            f"python3 -m pip install 'onestream[server,redis]'"
        ) from exc
    try:
        return RedisStore(
            settings.sessions,
            limits,
            worker,
            prefix=settings.sessions_prefix,
            call_s=settings.sessions_call_seconds,
        )
    except ValueError as exc:
        # Of the value of an option; the client's sentence names it, and shows no value.
        raise StartRefused(f"JARVIS_SESSIONS: {exc}") from None


def _shown(settings: Settings) -> str:
    """Without a password."""
    if store_address.is_sqlite(settings.sessions):
        return str(store_address.sqlite_path(settings.sessions) or default_path())
    from server.stores.redis_store import without_secrets

    return without_secrets(settings.sessions)


def _clock(settings: Settings) -> Callable[[], float]:
    if store_address.is_sqlite(settings.sessions) or not hasattr(time, "CLOCK_BOOTTIME"):
        # The file's clock is this one.
        return time.monotonic
    # It goes on while the machine sleeps, as the store's does.
    return lambda: time.clock_gettime(time.CLOCK_BOOTTIME)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
