"""Garbage that is collected within an execution, as on stock Python it may be at any time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Sized
from typing import Any, ClassVar

import pytest

from sim import World, explore
from sim.cli import main
from sim.exploration import beside
from sim.exploration.executing import Watch
from sim.exploration.report import Findings
from sim.exploration.verdict import Stop
from sim.export.sources import NotExportable
from sim.kernel import collections_at_polls
from sim.kernel.hosts.run import How
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder, Scheduler
from sim.schedulers.staged import Staged
from tests.limits import AMPLE_S

Program = Callable[[], Awaitable[None]]
FOUND_BY = "the garbage collector"


class Listener:
    """Hears what its bus sends; it and its task hold each other, and nobody else holds them."""

    def __init__(self, bus: Any, heard: list[str]) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.heard = heard
        bus.add(self)
        self.task = asyncio.create_task(self.listen())

    async def listen(self) -> None:
        while True:
            self.heard.append(await self.queue.get())


async def a_task_that_nobody_holds() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    asyncio.create_task(waits())  # noqa: RUF006 - what this is about
    await asyncio.sleep(0.01)
    assert not ended


async def a_listener_in_a_weak_set() -> None:
    bus: weakref.WeakSet[Listener] = weakref.WeakSet()
    heard: list[str] = []
    Listener(bus, heard)
    await asyncio.sleep(0.01)
    for each in bus:
        each.queue.put_nowait("hello")
    await asyncio.sleep(0.01)
    assert heard == ["hello"]


async def a_value_of_a_weak_dictionary() -> None:
    cache: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

    class Node:
        me: Any

    node = Node()
    node.me = cache["key"] = node
    del node
    await asyncio.sleep(0.01)
    assert "key" in cache


async def a_finalizer() -> None:
    closed = []

    class Handle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            closed.append(True)

    Handle()
    await asyncio.sleep(0.01)
    assert not closed


async def a_weakref_finalize() -> None:
    closed: list[bool] = []

    class Handle:
        me: Any

    handle = Handle()
    handle.me = handle
    weakref.finalize(handle, closed.append, True)
    del handle
    await asyncio.sleep(0.01)
    assert not closed


async def an_asynchronous_generator() -> None:
    closed = []

    class Source:
        async def numbers(self) -> Any:
            try:
                yield 1
            finally:
                closed.append(True)

    source: Any = Source()
    source.generator = source.numbers()
    async for _ in source.generator:
        break
    del source
    await asyncio.sleep(0.01)
    assert not closed


async def a_reader_of_a_stream() -> None:
    """A connection holds its StreamReader weakly, so that nobody holds the task that reads."""
    left, right = socket.socketpair()
    left.setblocking(False)
    heard = []

    async def reads() -> None:
        reader, _ = await asyncio.open_connection(sock=left)
        heard.append(await reader.readline())

    asyncio.create_task(reads())  # noqa: RUF006 - what this is about
    await asyncio.sleep(0.01)
    with right, contextlib.suppress(BrokenPipeError):
        right.send(b"hello\n")
        await asyncio.sleep(0.01)
    assert heard == [b"hello\n"]


async def with_the_collector(program: Program) -> None:
    """On stock Python: it runs at each poll, as it does where much is made."""

    async def collects() -> None:
        while True:
            gc.collect()
            await asyncio.sleep(0)

    collecting = asyncio.create_task(collects())
    try:
        await program()
    finally:
        collecting.cancel()


def explored(program: Program, **options: Any) -> Any:
    async def main(world: World) -> None:
        await program()

    return explore(main, **{"budget_s": AMPLE_S} | options)


IN_CIRCLES = [
    a_task_that_nobody_holds,
    a_listener_in_a_weak_set,
    a_value_of_a_weak_dictionary,
    a_finalizer,
    a_weakref_finalize,
    an_asynchronous_generator,
    a_reader_of_a_stream,
]


@pytest.mark.parametrize("program", IN_CIRCLES, ids=lambda each: each.__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_only_a_circle_holds_may_be_gone(program: Program) -> None:
    """What stock Python shows where the collector runs refutes, and the reason names it."""
    gc.disable()
    try:
        asyncio.run(program())  # type: ignore[arg-type]
    finally:
        gc.enable()
    with pytest.raises(AssertionError):
        asyncio.run(with_the_collector(program))
    report = explored(program)
    assert report.verdict == "refuted", report.text
    assert report.found_by == FOUND_BY
    assert "in it the collector freed" in report.reason


@pytest.mark.parametrize("is_cut_short", [False, True])
def test_without_executions_beside_the_search_nothing_is_proved(
    is_cut_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the budget ends before them it is inconclusive: they may refute what is searched."""
    if is_cut_short:
        monkeypatch.setattr(beside, "perf_counter", lambda: math.inf)

    async def waits(world: World) -> None:
        await asyncio.sleep(1)

    report = explore(waits, budget_s=AMPLE_S)
    assert report.verdict == ("inconclusive" if is_cut_short else "proved"), report.text
    if is_cut_short:
        assert report.stopped is Stop.OUT_OF_BUDGET
        assert "beside them were cut short" in report.reason


def interrupts(*_: object) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("ends", [lambda *_: True, interrupts], ids=["watch", "Ctrl-C"])
def test_who_ends_the_executions_beside_the_search_gets_no_proof(ends: Watch) -> None:
    """All of the search was seen, and what was not looked at beside it may refute."""

    async def waits(world: World) -> None:
        await asyncio.sleep(1)

    def watch(findings: Findings, scheduler: Scheduler) -> bool:
        return not isinstance(scheduler, Staged) and ends(findings, scheduler)

    report = explore(waits, watch=watch)
    assert report.verdict == "inconclusive", report.text
    assert report.stopped is Stop.INTERRUPTED
    assert report.reason.startswith("it was interrupted: staged has seen all of its schedules")
    assert "budget" not in report.reason


def test_an_error_of_an_execution_beside_the_search_is_the_verdict() -> None:
    """What cannot be simulated there could be what refutes."""

    async def forks_where_it_is_freed(world: World) -> None:
        listener = Listener(weakref.WeakSet(), [])
        freed = weakref.ref(listener)
        del listener
        await asyncio.sleep(0.01)
        if freed() is None:
            with contextlib.suppress(Exception):
                os.fork()

    report = explore(forks_where_it_is_freed, budget_s=AMPLE_S)
    assert report.verdict == "error", report.text
    assert "os.fork" in report.reason


def test_the_task_that_was_freed_is_named() -> None:
    """With the line where it waited, in the reason and in the chart."""
    report = explored(a_task_that_nobody_holds)
    assert "the collector freed Task-1 as it waited in waits (test_collections.py:" in report.reason
    assert "frees Task-1 as it waited" in report.counterexample.text


async def until_there_are(count: int, done: Sized) -> None:
    """Or until far beyond what a busy machine needs on stock."""
    for _ in range(1_000):
        if len(done) < count:
            await asyncio.sleep(0.05)


async def what_the_loop_holds() -> None:
    """A timer, a thread, a callback: each holds the task that nobody else does."""
    done = []

    async def sleeps() -> None:
        await asyncio.sleep(0.02)
        done.append("timer")

    async def in_thread() -> None:
        await asyncio.to_thread(threading.Event().wait, 0.01)
        done.append("thread")

    async def is_called() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, None)
        await future
        done.append("callback")

    for each in (sleeps, in_thread, is_called):
        asyncio.create_task(each())  # noqa: RUF006 - what this is about
    await until_there_are(3, done)
    assert sorted(done) == ["callback", "thread", "timer"]


async def what_a_socket_holds() -> None:
    """Nobody else holds the tasks that read from a connection's ends; a circle is freed besides."""
    done: list[bytes] = []
    circle: list[Any] = []
    circle.append(circle)
    del circle
    ends = list(socket.socketpair())
    loop = asyncio.get_running_loop()

    async def reads(end: socket.socket) -> None:
        with end:
            end.setblocking(False)
            await asyncio.sleep(0.01)
            await loop.sock_sendall(end, b"hello")
            done.append(await loop.sock_recv(end, 5))
            await asyncio.sleep(0.01)

    while ends:
        asyncio.create_task(reads(ends.pop()))  # noqa: RUF006 - what this is about
    await until_there_are(2, done)
    assert done == [b"hello"] * 2


@pytest.mark.socket
@pytest.mark.parametrize("program", [what_the_loop_holds, what_a_socket_holds])
def test_what_is_to_come_holds_who_waits_for_it(program: Program) -> None:
    """A collector that runs at each poll frees nobody who waits for what will come."""
    asyncio.run(with_the_collector(program))
    report = explored(program, strategy="natural", max_executions=1)
    for which in (0, 1, 2, 3):
        bounds = Bounds(collections=which)
        (outcome,) = outcomes_in_natural_order(program, bounds)
        assert outcome.violation is None, outcome.violation
    assert report.counterexample is None, report.text


def outcomes_in_natural_order(program: Program, bounds: Bounds) -> Any:
    from sim import outcomes

    async def main(world: World) -> None:
        await program()

    return list(outcomes(main, NaturalOrder(), bounds=bounds))


async def awaits_the_world(world: World) -> None:
    heard = []

    async def waits() -> None:
        await world.outside("it comes", latest=10)
        heard.append(True)

    circle: list[Any] = []
    circle.append(circle)
    del circle
    asyncio.create_task(waits())  # noqa: RUF006 - what this is about
    await asyncio.sleep(0)
    await asyncio.sleep(1000)
    world.check(bool(heard), "it was heard")


def test_an_outside_event_holds_who_waits_for_it() -> None:
    """As a selector holds what is called for a descriptor."""
    report = explore(awaits_the_world, horizon_s=2000)
    assert report.verdict == "proved", report.text
    assert "with garbage kept to the end (16 executions collected it at polls)" in report.claim


def test_a_program_without_circles_has_the_claim_that_it_had() -> None:
    """Its two executions with the collector found nothing to free."""

    async def program() -> None:
        await asyncio.gather(*(asyncio.sleep(each) for each in (0.1, 0.2)))

    report = explored(program)
    assert report.verdict == "proved", report.text
    assert "garbage" not in report.reason
    assert report.executions == 1


def test_a_program_that_switches_the_collector_off_keeps_its_circles() -> None:
    """As on stock: what it says decides, while it says so."""

    async def program() -> None:
        gc.disable()
        await a_finalizer()

    assert explored(program).verdict == "proved"


class Noted:
    """In a circle; it notes in which surroundings it was freed."""

    freed_in: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        self.freed_in.append(asyncio._get_running_loop() is not None)


def test_what_was_there_before_is_freed_in_no_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history of the process has no part in what an execution's collector finds."""
    # As for users: see conftest.
    monkeypatch.setattr(collections_at_polls, "_frozen", gc.get_freeze_count)
    monkeypatch.setattr(collections_at_polls, "_unfreeze", gc.unfreeze)
    Noted.freed_in.clear()
    Noted()
    was_frozen = gc.get_freeze_count()
    (outcome,) = outcomes_in_natural_order(in_a_circle, Bounds(collections=1))
    assert "collections" in outcome.bounds_hit
    assert Noted.freed_in == [False]
    assert gc.get_freeze_count() <= was_frozen


async def in_a_circle() -> None:
    circle: list[Any] = []
    circle.append(circle)
    del circle
    await asyncio.sleep(0)


def in_the_oldest_generation(each: Noted) -> Noted:
    gc.collect()
    return each


def test_old_garbage_of_the_process_is_not_looked_for() -> None:
    """It is frozen with all that there is: else a small search costs what the process is large."""
    Noted.freed_in.clear()
    gc.disable()
    try:
        assert in_the_oldest_generation(Noted()).me is not None
        assert explored(in_a_circle).verdict == "proved"
        (outcome,) = outcomes_in_natural_order(in_a_circle, Bounds(collections=1))
    finally:
        gc.enable()
    assert "collections" in outcome.bounds_hit
    assert Noted.freed_in == []


async def listens(world: World) -> None:
    bus: weakref.WeakSet[Listener] = weakref.WeakSet()
    heard: list[str] = []
    Listener(bus, heard)
    await world.outside("a message")
    for each in bus:
        each.queue.put_nowait("hello")
    await asyncio.sleep(1)
    world.check(heard == ["hello"], "the message is heard")


def test_a_schedule_has_its_collections() -> None:
    """It is replayed by its text, and the same is freed; no file can show that."""
    report = explore(listens)
    found = report.counterexample
    assert found is not None, report.text
    assert "collections=1" in found.schedule
    replayed = found.replay(listens)
    assert replayed.violation is not None
    assert "a Listener" in replayed.freed
    with pytest.raises(NotExportable, match="the garbage collector frees something in it"):
        found.export(listens)


def test_the_collector_runs_in_forks() -> None:
    """An exploration in forks looks at it, too."""
    assert explore(listens, isolate=True).found_by == FOUND_BY


def test_the_collector_runs_in_a_process_of_a_host() -> None:
    """At the polls of its loop."""

    async def program(world: World) -> None:
        ended = await world.host("a").run(a_finalizer).ended()
        world.check(ended.how is How.RETURNED, "the process finds no fault")

    report = explore(program)
    assert report.found_by == FOUND_BY, report.text


FILE = """
import asyncio, weakref

class Node:
    pass

async def main(world):
    node = Node()
    node.me = node
    alive = weakref.ref(node)
    del node
    await world.outside("one")
    await world.outside("other")
    world.check(alive() is not None, "the node is there")
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_several_jobs_collect(tmp_path: Any, capsys: Any, jobs: str) -> None:
    """As one does, beside the search."""
    file = tmp_path / f"node_{jobs}.py"
    file.write_text(FILE)
    assert main(["explore", f"{file}:main", "--jobs", jobs, "--quiet"]) == 1
    shown = capsys.readouterr().out
    assert f"found by {FOUND_BY}" in shown
    assert "the collector freed a Node, which only a circle of objects held" in shown
