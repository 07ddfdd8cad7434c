"""Handlers of `signal.signal` that Python runs between two lines of the program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sim import World, explore

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="has no such signals")


def nothing() -> None:
    """It takes long enough to be met by a real signal, and ends with a look for one."""
    sorted(range(5_000))


class Account:
    """What two lines change, between which it is half done."""

    def __init__(self) -> None:
        self.here, self.there = 100, 0

    def move(self) -> None:
        self.here -= 10
        nothing()
        self.there += 10

    def move_at_once(self) -> None:
        here, there = self.here - 10, self.there + 10
        self.here, self.there = here, there

    def total(self) -> int:
        return self.here + self.there


Sends = Callable[[], Awaitable[Any]]


async def a_handler_reads_what_is_half_done(send: Sends) -> None:
    account, seen = Account(), list[int]()
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(account.total()))
    sent = send()
    account.move()
    await sent
    assert set(seen) <= {100}


async def a_handler_changes_what_a_step_has_read(send: Sends) -> None:
    count = handled = 0

    def handle(*_: object) -> None:
        nonlocal count, handled
        count += 10
        handled += 1

    signal.signal(signal.SIGUSR1, handle)
    sent = send()
    seen = count
    nothing()
    count = seen + 1
    await sent
    assert count == 1 + 10 * handled


async def a_handler_changes_what_is_iterated(send: Sends) -> None:
    kept = {0: 0, 1: 1}
    signal.signal(signal.SIGUSR1, lambda *_: kept.setdefault(len(kept), 0))
    sent = send()
    for _ in kept:
        nothing()
    await sent


async def a_handler_reads_what_is_whole(send: Sends) -> None:
    account, seen = Account(), list[int]()
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(account.total()))
    sent = send()
    account.move_at_once()
    await sent
    assert set(seen) <= {100}


async def no_call_between_two_lines(send: Sends) -> None:
    """CPython looks for signals at calls, jumps back and begins of functions alone."""
    account, seen = Account(), list[int]()
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(account.total()))
    sent = send()
    account.here -= 10
    account.there += 10
    account.there += 0
    account.there += 0
    await sent
    assert set(seen) <= {100}


async def a_callback_of_the_loop(send: Sends) -> None:
    account, seen = Account(), list[int]()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(account.total()))
    sent = send()
    account.move()
    await sent
    assert set(seen) <= {100}


def explored(program: Callable[[Sends], Awaitable[None]], **options: Any) -> Any:
    async def main(world: World) -> None:
        await program(lambda: world.signal(signal.SIGUSR1))

    return explore(main, **options)


BETWEEN = [
    a_handler_reads_what_is_half_done,
    a_handler_changes_what_a_step_has_read,
    a_handler_changes_what_is_iterated,
]
AT_ONCE = [a_handler_reads_what_is_whole, no_call_between_two_lines]


@pytest.mark.parametrize("program", BETWEEN)
def test_a_handler_between_two_lines_refutes(program: Callable[[Sends], Awaitable[None]]) -> None:
    """The search alone, which runs handlers at polls, would prove it; the chart says where."""
    report = explored(program)
    assert report.verdict == "refuted", report.text
    assert report.found_by == "a signal between two lines"
    assert "SIGUSR1 lands before test_signals_between_lines.py:" in " ".join(report.text.split())
    assert "signal_lines=True" in report.counterexample.schedule


@pytest.mark.parametrize("program", AT_ONCE)
def test_what_no_handler_sees_half_done_is_proved(
    program: Callable[[Sends], Awaitable[None]],
) -> None:
    """The claim says that handlers ran at polls, and how many executions had them elsewhere."""
    report = explored(program)
    assert report.verdict == "proved", report.text
    assert "with handlers of signals at polls (" in " ".join(report.reason.split())


def test_a_callback_of_the_loop_runs_between_no_lines() -> None:
    """`loop.add_signal_handler` has it run in an iteration of its own; nothing is claimed."""
    report = explored(a_callback_of_the_loop)
    assert report.verdict == "proved", report.text
    assert "handlers of signals" not in report.reason


def test_no_handler_runs_between_two_lines_of_what_must_always_hold() -> None:
    """It is asked at one instant, by nobody that there is on stock."""

    async def program(world: World) -> None:
        account = Account()

        def handle(*_: object) -> None:
            account.move_at_once()

        def is_whole() -> bool:
            here = account.here
            nothing()
            return here + account.there == 100

        signal.signal(signal.SIGUSR1, handle)
        world.always("nothing is lost", is_whole)
        await world.signal(signal.SIGUSR1)
        nothing()

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert "ran them between lines" in " ".join(report.reason.split())


def test_a_counterexample_is_replayed() -> None:
    """Its schedule has the line before which the signal landed."""

    async def main(world: World) -> None:
        await a_handler_reads_what_is_half_done(lambda: world.signal(signal.SIGUSR1))

    found = explore(main).counterexample
    assert found is not None
    assert found.replay(main).violation is not None


@pytest.mark.socket  # real signals
@pytest.mark.parametrize("program", [*BETWEEN, *AT_ONCE])
def test_so_it_is_on_stock(program: Callable[[Sends], Awaitable[None]]) -> None:
    """Signals of another thread, in noisy runs: what is refuted comes, what is proved does not.

    That none has landed there in its time says nothing of Python, and is told as a skip."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    is_over = threading.Event()

    def send_many() -> None:
        while not is_over.wait(0.000_02):
            os.kill(os.getpid(), signal.SIGUSR1)

    async def fails() -> bool:
        until = time.monotonic() + (10 if program in BETWEEN else 1)
        while time.monotonic() < until:
            try:
                await program(lambda: asyncio.ensure_future(asyncio.sleep(0)))
            except (AssertionError, RuntimeError):
                return True
        return False

    sender, interval = threading.Thread(target=send_many), sys.getswitchinterval()
    sys.setswitchinterval(0.000_05)
    sender.start()
    try:
        has_failed = asyncio.run(fails())
    finally:
        is_over.set()
        sender.join()
        sys.setswitchinterval(interval)
        signal.signal(signal.SIGUSR1, before)
    if program in BETWEEN and not has_failed:
        pytest.skip("no signal landed there in 10 s on this machine")
    assert has_failed == (program in BETWEEN)
