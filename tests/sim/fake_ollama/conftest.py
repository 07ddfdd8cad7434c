"""Fixtures of the fake Ollama's tests: its script, driven by hand, and each of its fronts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sim.fake_ollama import FakeOllama, Profile, profile_named
from sim.fake_ollama.http_front import wall_clock_ns
from tests.sim.fake_ollama.driver import Driver
from tests.sim.fake_ollama.fronts import (
    CONTRACT_PROFILE,
    Front,
    HttpAsync,
    HttpBlocking,
    SimAsync,
    SimBlocking,
    Thread,
)

FRONTS = [
    pytest.param("http-async", marks=pytest.mark.socket),
    pytest.param("http-blocking", marks=pytest.mark.socket),
    "sim-async",
    "sim-blocking",
]
REAL_URL = os.environ.get("ONESTREAM_OLLAMA_URL")
REAL_MODEL = os.environ.get("ONESTREAM_OLLAMA_MODEL")
if REAL_URL and REAL_MODEL:
    FRONTS.append(pytest.param("real", marks=pytest.mark.socket))


@pytest.fixture
def drive() -> Callable[..., Driver]:
    """Make a driver; the profile is `normal` with the fields given."""

    def make(profile: Profile | None = None, **changes: Any) -> Driver:
        return Driver(replace(profile or profile_named("normal"), **changes))

    return make


@pytest.fixture
def in_thread() -> Iterator[Callable[[Profile], Thread]]:
    """Serve a fake from another thread until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda profile: stack.enter_context(Thread(FakeOllama(profile, wall_clock_ns)))


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """Each front in turn; the real Ollama where ONESTREAM_OLLAMA_URL names one."""
    if request.param == "http-async":
        yield HttpAsync()
    elif request.param == "http-blocking":
        with Thread(FakeOllama(CONTRACT_PROFILE, wall_clock_ns)) as thread:
            yield HttpBlocking(thread.base_url, thread.fake)
    elif request.param == "sim-async":
        yield SimAsync()
    elif request.param == "sim-blocking":
        yield SimBlocking()
    else:
        assert REAL_URL is not None
        assert REAL_MODEL is not None
        yield HttpBlocking(REAL_URL, None, REAL_MODEL)
