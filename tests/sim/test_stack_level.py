"""The whole stack in the simulator: uvicorn, the application and both clients, on sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

import server.http_limits
import server.http_protocol
import server.ollama_async
import server.wakeable
from sim import Report, explore
from sim.bench.catalog import subject_of
from sim.bench.entry import Entry
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios.stack_level import STACK_SCENARIOS
from sim.replay import replay as replay_text
from sim.schedulers import DepartureBounded, RandomFirst
from tests.limits import AMPLE_S

NAMES = [each.name for each in STACK_SCENARIOS]
# Of some hundred schedules; `onestream check --level stack` proves the others too, in longer.
SMALL = (
    "reused_after_error.async",
    "hung_upstream.async",
    "pipelined.async",
    "stop_is_pressed.async",
    "trickles.async",
    "leaves_before_answer.async",
    "leaves_before_answer.thread",
    "upstream_resets.thread",
    # What exists at this level alone, also where it takes seconds: a process that crashes while its
    # thread is in a socket, a host without power, one that is parted, the end with a stream.
    "hosts.server_crashes.thread",
    "hosts.parted_shortly.async",
    "shutdown.async",
    "shutdown.thread",
)
# Of so few schedules that each run of the suite sees them all.
QUICK = ("leaves_long_before_answer.async",)


def explored(scenario: str, executions: int) -> Report:
    """Some random executions, then as many with up to one departure as are left."""
    strategy = RandomFirst(DepartureBounded(1), random_executions=executions // 2)
    subject = subject_of(Entry("stack", scenario, "production"))
    with silenced():
        return explore(subject, strategy=strategy, budget_s=AMPLE_S, max_executions=executions)


@pytest.mark.parametrize("scenario", NAMES)
def test_the_stack_keeps_its_promises(scenario: str) -> None:
    """No execution among some random ones violates anything, and each is as it was before."""
    report = explored(scenario, 3)
    assert report.verdict == "inconclusive" and "limit of 3 executions" in report.reason, (
        report.text
    )


@pytest.mark.parametrize(
    "scenario", [*(pytest.param(each, marks=pytest.mark.thorough) for each in SMALL), *QUICK]
)
def test_the_stack_is_proved_with_one_departure(scenario: str) -> None:
    """Every schedule with up to one departure keeps every promise; every label is reached."""
    subject = subject_of(Entry("stack", scenario, "production"))
    with silenced():
        report = explore(subject, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "proved", report.text


# ---- production, broken where only sockets can show it ----------------------------------------


def _cuts_nothing(self: server.wakeable.Wake) -> None:
    """A thread that is told to stop goes on waiting for its socket."""


def _holds_late(
    self: server.wakeable.WakeableTransport,
    sock: socket.socket,
    address: Any,
    timeout: float | None,
) -> None:
    """A stop as it connects finds nothing to shut down, and nobody looks afterwards."""
    sock.settimeout(timeout)
    sock.connect(address)
    self._wake._socket = sock


def _believes_that_all_wait(self: server.http_protocol.HttpProtocol, again_s: float) -> None:
    """A client that has closed its sending side is never asked whether it is there."""


def _waits_for_ever(self: server.http_limits.LimitedProtocol, limit_s: float) -> None:
    """A head may come as slowly as it likes."""
    self._idle_since = self.loop.time()


def _stays_open(self: server.http_protocol.HttpProtocol) -> None:
    """A client that has closed its sending side keeps its connection behind the answer."""
    server.http_limits.LimitedProtocol.on_response_complete(self)


def _watches_nothing(self: server.http_limits.LimitedProtocol, before_bytes: int) -> None:
    """An answer may stay in the server's buffer for as long as the client likes."""
    self._unread_timer = None


def _reads_no_more(self: server.http_protocol.HttpProtocol, data: bytes) -> None:
    """Behind a second request nothing is read, and so no client is seen to leave."""
    server.http_limits.LimitedProtocol._receive(self, data)


async def _looks_up_in_the_loop(executor: Any, host: str, port: int) -> list[str]:
    """All clients wait until the resolver has answered one."""
    *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return [str(address[0])]


def _connects_without_limit(
    self: server.wakeable.WakeableTransport,
    sock: socket.socket,
    address: Any,
    timeout: float | None,
) -> None:
    """A thread waits for a machine that is gone for as long as its kernel does."""
    sock.settimeout(None)
    self._wake.hold(sock)
    sock.connect(address)
    self._wake.hold(sock)


def _asks_no_flag(self: server.wakeable.Wake, sock: Any) -> None:
    """A stop between the making of a socket and the connect is noticed by nobody."""
    self._socket = sock


def _hears_nothing(self: server.http_protocol.HttpProtocol, again_s: float, later_s: float) -> None:
    """What a client's kernel answers to a probe is heard by the next one."""
    self._probe_timer = self.loop.call_later(again_s, self._probe, later_s)


def _goes_on_probing(self: server.http_protocol.HttpProtocol, exc: Exception | None) -> None:
    """The timer of the next probe outlives its connection."""
    server.http_limits.LimitedProtocol.connection_lost(self, exc)


def _goes_on_waiting(self: server.http_limits.LimitedProtocol, exc: Exception | None) -> None:
    """The timer of a head that has not come outlives its connection."""
    server.http_limits.H11Protocol.connection_lost(self, exc)


BROKEN: list[tuple[str, Any, str, Callable[..., Any], str]] = [
    ("hung_upstream.thread", server.wakeable.Wake, "cut", _cuts_nothing, "L2 prompt_stop"),
    (
        "second_prompt.thread",
        server.wakeable.WakeableTransport,
        "_connect",
        _holds_late,
        "L2 prompt_stop",
    ),
    (
        "superseded_as_it_connects.thread",
        server.wakeable.Wake,
        "hold",
        _asks_no_flag,
        "L2 prompt_stop",
    ),
    (
        "leaves_long_before_answer.async",
        server.http_protocol.HttpProtocol,
        "_hear",
        _hears_nothing,
        "who leaves leaves nothing running at Ollama",
    ),
    (
        "half_closes.async",
        server.http_protocol.HttpProtocol,
        "connection_lost",
        _goes_on_probing,
        "L3 no_leak",
    ),
    (
        "reused_after_error.async",
        server.http_limits.LimitedProtocol,
        "connection_lost",
        _goes_on_waiting,
        "L3 no_leak",
    ),
    (
        "trickles.async",
        server.http_limits.LimitedProtocol,
        "_await_head",
        _waits_for_ever,
        "a head that trickles is not waited for",
    ),
    (
        "leaves_before_answer.async",
        server.http_protocol.HttpProtocol,
        "_probe",
        _believes_that_all_wait,
        "who leaves leaves nothing running at Ollama",
    ),
    (
        "leaves_with_more_behind.async",
        server.http_protocol.HttpProtocol,
        "_receive",
        _reads_no_more,
        "who leaves leaves nothing running at Ollama",
    ),
    (
        "look_up_hangs.async",
        server.ollama_async,
        "addresses_of",
        _looks_up_in_the_loop,
        "the loop never waits for a resolver",
    ),
    (
        "cut_off.thread",
        server.wakeable.WakeableTransport,
        "_connect",
        _connects_without_limit,
        "no connection is told",
    ),
    (
        "half_closes.async",
        server.http_protocol.HttpProtocol,
        "on_response_complete",
        _stays_open,
        "nobody can ask again: the connection is closed",
    ),
    (
        "never_reads.async",
        server.http_limits.LimitedProtocol,
        "_check_unread",
        _watches_nothing,
        "a client that never reads is given up",
    ),
]


# These take hundreds of executions.
LONG = {
    *("second_prompt.thread", "cut_off.thread", "hung_upstream.thread", "never_reads.async"),
    *("trickles.async", "leaves_with_more_behind.async", "leaves_long_before_answer.async"),
    "superseded_as_it_connects.thread",
}


@pytest.mark.parametrize(
    ("scenario", "owner", "name", "broken", "sentence"),
    [
        pytest.param(*each, marks=pytest.mark.thorough if each[0] in LONG else (), id=each[0])
        for each in BROKEN
    ],
)
def test_what_only_sockets_show_is_found(
    scenario: str,
    owner: Any,
    name: str,
    broken: Callable[..., Any],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line of the server below its application, broken, violates a promise of a scenario."""
    monkeypatch.setattr(owner, name, broken)
    report = explored(scenario, 300)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None and sentence in report.counterexample.property


@pytest.mark.thorough
def test_a_schedule_of_the_stack_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """`onestream replay` plays it again, from its text alone."""
    with monkeypatch.context() as patched:
        patched.setattr(server.wakeable.Wake, "cut", _cuts_nothing)
        found = explored("hung_upstream.thread", 50).counterexample
        assert found is not None
        assert replay_text(found.schedule) is not None
