"""What swallows whatever is raised in it ends all the same: its frames catch nothing any more."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from sim import Report, World
from sim.kernel import unprotected, watchdog
from sim.kernel.uncaught import step_of
from sim.kernel.unprotected import Unprotected, without_ranges
from tests.sim.short_budgets import spent_within


class LetOut(BaseException):
    """Nobody is to catch it."""


def catches(raises: Callable[[], None]) -> str:
    try:
        try:
            with suppress(ValueError):
                raises()
        finally:
            pass
    except:  # noqa: E722 - what this is about
        return "caught"
    return "nothing raised"


def raise_let_out() -> None:
    raise LetOut


def test_a_frame_without_its_table_catches_nothing() -> None:
    """Neither its `except` nor its `finally`; once it is given back it catches as before."""
    did = Unprotected()
    table = bytes(bytearray(catches.__code__.co_exceptiontable))

    def take_and_raise() -> None:
        did.take(each for each in step_of(sys._getframe()) if each.f_code.co_name == "catches")
        raise LetOut

    with pytest.raises(LetOut):
        catches(take_and_raise)
    with pytest.raises(LetOut):
        catches(raise_let_out)
    did.give_back()
    assert catches(raise_let_out) == "caught"
    assert catches.__code__.co_exceptiontable == table


@pytest.fixture
def its_frame() -> FrameType:
    """Of `catches`, which has a table."""
    found: list[FrameType] = []
    catches(lambda: found.append(sys._getframe(1)))
    return found[0]


@pytest.mark.parametrize("interrupted", ["take", "give_back"])
@pytest.mark.parametrize("interrupts", ["take", "give_back"])
def test_who_interrupts_it_leaves_no_table_empty(
    monkeypatch: pytest.MonkeyPatch, its_frame: FrameType, interrupted: str, interrupts: str
) -> None:
    """A signal's handler may use it where it has noted a table, and not yet written it."""
    did = Unprotected()
    methods = {"take": lambda: did.take([its_frame]), "give_back": did.give_back}
    write = unprotected._write
    table = bytes(bytearray(its_frame.f_code.co_exceptiontable))
    if interrupted == "give_back":
        did.take([its_frame])

    def is_interrupted(into: bytes, what: bytes) -> None:
        monkeypatch.setattr(unprotected, "_write", write)
        methods[interrupts]()
        write(into, what)

    monkeypatch.setattr(unprotected, "_write", is_interrupted)
    methods[interrupted]()
    did.give_back()
    assert its_frame.f_code.co_exceptiontable == table
    assert catches(raise_let_out) == "caught"


def test_two_threads_use_it_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, its_frame: FrameType
) -> None:
    """While one gives a table back the other cannot take it for what it was."""
    did = Unprotected()
    did.take([its_frame])
    write, is_held = unprotected._write, list[bool]()

    def asks_who_may(into: bytes, what: bytes) -> None:
        other = threading.Thread(
            target=lambda: is_held.append(not did._lock.acquire(blocking=False))
        )
        other.start()
        other.join()
        write(into, what)

    monkeypatch.setattr(unprotected, "_write", asks_who_may)
    did.give_back()
    assert is_held == [True]


def test_an_empty_table_has_the_same_numbers_but_for_the_lengths() -> None:
    """Of as many bytes, so that it can stand where the other was."""
    for code in (catches.__code__, asyncio.Queue.get.__code__, asyncio.wait_for.__code__):
        table = code.co_exceptiontable
        emptied = without_ranges(table)
        assert len(emptied) == len(table)
        assert without_ranges(emptied) == emptied
        assert [a & 0xC0 for a in emptied] == [b & 0xC0 for b in table]


def work() -> int:
    return 1


def loop_within_a_loop() -> None:
    while True:
        try:
            while True:
                work()
        except:  # noqa: E722
            pass


def tries_again() -> None:
    while True:
        try:
            for _ in range(10):
                work()
        except BaseException:
            pass


def tries_again_and_again() -> None:
    while True:
        try:
            while True:
                try:  # noqa: SIM105
                    tries_again()
                except:  # noqa: E722
                    pass
        except:  # noqa: E722
            pass


class Swallows:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> bool:
        return True


def a_with_that_swallows() -> None:
    while True:
        with Swallows():
            while True:
                work()


def at_work_in_c() -> None:
    while True:
        try:  # noqa: SIM105
            sum(range(100_000))
        except:  # noqa: E722
            pass


LOOPS = [
    loop_within_a_loop,
    tries_again_and_again,
    a_with_that_swallows,
    at_work_in_c,
]


def goes_on_when_it_is_cancelled(loop: Callable[[], None]) -> Any:
    async def program(world: World) -> None:
        async def goes_on() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                loop()

        task = asyncio.create_task(goes_on())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    return program


def goes_on_at_the_end(loop: Callable[[], None]) -> Any:
    async def program(world: World) -> None:
        async def goes_on() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                loop()

        world.loop.kept = asyncio.create_task(goes_on())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    return program


@pytest.fixture(autouse=True)
def _looks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it looks is decided by a real clock; what it says is not."""
    for name in ("TICK_S", "VIRTUAL_TICK_S", "FREED_S", "GRACE_S"):
        monkeypatch.setattr(watchdog, name, 0.05)


@pytest.mark.socket  # real time: of the processor, and some tenths of a second
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no watchdog here")
@pytest.mark.parametrize("where", [goes_on_when_it_is_cancelled, goes_on_at_the_end])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda each: each.__name__)
def test_what_swallows_all_outlives_no_budget(loop: Any, where: Any) -> None:
    """The verdict names the task and its line; the next exploration finds all as it was."""
    report = spent_within(where(loop))
    assert report.verdict == "inconclusive", report.text
    assert "the budget is spent: task Task-1 has not given the loop back in" in report.reason
    assert catches(raise_let_out) == "caught"


@pytest.mark.socket  # as above
def test_in_another_thread_it_ends_too() -> None:
    """There an exception is raised from without, where no signal comes."""
    found: list[Report] = []
    program = goes_on_when_it_is_cancelled(loop_within_a_loop)
    thread = threading.Thread(target=lambda: found.append(spent_within(program)))
    thread.start()
    thread.join()
    assert found[0].verdict == "inconclusive", found[0].text
