"""How a counterexample reads: lanes, the first difference, who waits for whom, who spins."""

from __future__ import annotations

import asyncio
import linecache
import re
import time
from itertools import pairwise
from typing import Any

import anyio.to_thread
import pytest

from sim import World, explore
from sim.bench.checking.check import check
from sim.cli import main
from sim.counterexamples.chart import COLUMNS_MAX, MARK, WIDTH_MAX, chart
from sim.counterexamples.explanation import LINES_MAX
from sim.kernel.execution import Program
from sim.kernel.world import TraceLine
from tests.limits import AMPLE_S
from tests.sim.documents import WITH_COUNTEREXAMPLES, counterexamples, lasting


def text_of(program: Program) -> str:
    report = explore(program, max_executions=5000)
    assert report.counterexample is not None, report.text
    return report.counterexample.text


def assert_fits(text: str) -> None:
    """Only the schedule in the last line may run over."""
    *lines, last = text.splitlines()
    assert len(lines) < LINES_MAX
    assert max(map(len, lines)) <= WIDTH_MAX
    assert last.startswith("replay: onestream replay os2/")


def actors(count: int, lines_each: int) -> Program:
    async def program(world: World) -> None:
        for serial in range(lines_each):
            for number in range(count):
                world.record(f"does its part {serial} " + "and more " * serial, actor=f"a{number}")
        world.check(False, "never so")

    return program


@pytest.mark.parametrize("count", [1, 2, 5, 12, 30])
@pytest.mark.parametrize("lines_each", [1, 12])
def test_fits_a_screen(count: int, lines_each: int) -> None:
    """At most 40 lines of 100 columns, for one actor and for thirty, whatever they do."""
    text = text_of(actors(count, lines_each))
    assert_fits(text)
    assert "VIOLATED" in text
    if count * lines_each > LINES_MAX:
        assert "lines left out" in text


def test_each_actor_has_its_lane() -> None:
    """What an actor did begins in the column under its name; who shares a lane is named."""
    lines = text_of(actors(3, 2)).splitlines()
    header = next(line for line in lines if "a0" in line and "a2" in line)
    for name in ("a0", "a1", "a2"):
        column = header.index(name)
        mine = [line for line in lines if line[column:].startswith("does its part")]
        assert len(mine) == 2
    crowd = text_of(actors(30, 1))
    assert "a29: does its part" in crowd
    assert "others" in crowd


# ---- lanes -----------------------------------------------------------------------------------


def steps(*told: str) -> list[TraceLine]:
    """From lines such as `1.5 p1 registers`."""
    split = (line.split(" ", 2) for line in told)
    return [TraceLine(float(at), actor, text) for at, actor, text in split]


def test_a_chart() -> None:
    """Times stand once, bars last from an actor's first step to its last, and the log is last."""
    trace = steps(
        "0 log stream_start",
        "0 p1 registers",
        "0.1 outside p2 arrives",
        "0.1 p2 registers",
        "0.2 outside p1 leaves",
        "0.2 p1 ends",
        "0.2 log stream_end",
        "0.2 loop VIOLATED",
    )
    assert chart(trace, 3, 20) == [
        "            outside     p1         p2         log",
        "    0.000                                     stream_start",
        "                        registers             │",
        "    0.100   p2 arrives  │                     │",
        "          ≠ │           │          registers  │",
        "    0.200   p1 leaves   │                     │",
        "                        ends                  │",
        "                                              stream_end",
        "            VIOLATED",
    ]


def test_what_is_told_again_is_counted() -> None:
    """The same step of the same actor at the same time is one row; the marked one stands alone."""
    trace = steps("1 a polls", "1 a polls", "1 a polls", "1 b polls", "1 a polls", "2 a polls")
    rows = [line[12:].strip() for line in chart(trace, None, 20)[1:]]
    assert rows == ["polls (3×)", "│           polls", "polls", "polls"]
    assert len(chart(trace, 2, 20)) == len(chart(trace, None, 20)) + 1


@pytest.mark.parametrize("marked", [None, 0, 1, 3, 50, 97, 99])
@pytest.mark.parametrize("lines_max", [4, 8, 20, 30])
def test_the_end_and_the_mark_are_kept(marked: int | None, lines_max: int) -> None:
    """Where there is too much to tell, what is left out is counted, and the times still stand."""
    lines = chart(steps(*(f"1 a step-{number}." for number in range(100))), marked, lines_max)
    assert len(lines) == lines_max
    assert lines[-1].endswith("step-99.")
    if marked is not None and lines_max >= 8:
        (row,) = [line for line in lines if MARK in line]
        assert row.endswith(f"step-{marked}.")
    left_out = [int(line.split()[1]) for line in lines if "left out" in line]
    shown = sum("step-" in line for line in lines)
    assert sum(left_out) + shown == 100
    for before, line in pairwise(lines):
        if "left out" in before or before is lines[0]:
            assert line.startswith("    1.000") or "left out" in line


@pytest.mark.parametrize("count", range(1, 2 * COLUMNS_MAX))
@pytest.mark.parametrize("length", [2, 9, 30])
def test_lanes_of_any_number_fit(count: int, length: int) -> None:
    """Names of any length, of any number of actors: every row fits, and has room for its text."""
    names = [f"{'actor-' * 5}"[:length] + f"-{number}" for number in range(count)]
    lines = chart(steps(*(f"1 {name} {'goes-on-' * 9}" for name in names)), None, 60)
    assert max(map(len, lines)) <= WIDTH_MAX
    assert all("goes-on-goes-on-" in line for line in lines[1:])
    assert len(lines[0].split()) == min(count, COLUMNS_MAX)


# ---- whole counterexamples -------------------------------------------------------------------


def test_published_registries_explained_in_a_screen() -> None:
    """Every counterexample of the published registries fits, at both levels."""
    texts = []
    for level, name in (("registry", "racing_registers"), ("server", "hung_upstream.thread")):
        verdict = check(level=level, scenario=name, registry="quick_fix", budget_s=AMPLE_S)
        texts += [each.report.counterexample for each in verdict.results]
    assert [each is not None for each in texts] == [True, True]
    for found in texts:
        assert found is not None
        assert_fits(found.text)


def test_the_first_difference_from_a_passing_execution() -> None:
    """It names what the passing execution does otherwise, and where the two part."""

    async def program(world: World) -> None:
        order: list[str] = []

        async def actor(name: str) -> None:
            await world.outside(f"{name} comes")
            world.record("goes", actor=name)
            order.append(name)

        await asyncio.gather(actor("a"), actor("b"))
        world.check(order == ["a", "b"], "a goes first")

    lines = text_of(program).splitlines()
    assert_fits("\n".join(lines))
    assert "departures: 1, at 1 of 2 choice points" in lines
    assert "  1. at 0.000 s: «b comes» lands before «a comes»" in lines
    at = lines.index(
        "first difference (≠) from the nearest passing execution, without departure 1:"
    )
    assert lines[at + 1 : at + 3] == [
        "  here:  0.000 s, outside: b comes",
        "  there: 0.000 s, outside: a comes",
    ]
    (marked,) = [line for line in lines if line.startswith(" " * 2) and MARK in line]
    assert marked.endswith("b comes")


def test_a_longer_wait_is_one_departure() -> None:
    """What is kept waiting for several polls is printed as one departure, and so is what passes."""

    async def program(world: World) -> None:
        steps_taken = 0

        async def works() -> None:
            nonlocal steps_taken
            await world.outside("work comes", latest=0)
            for _ in range(5):
                await asyncio.sleep(0)
                steps_taken += 1

        async def looks() -> None:
            await world.outside("somebody looks")
            world.check(steps_taken < 3, "nobody sees three steps")

        await asyncio.gather(works(), looks())

    text = text_of(program)
    assert "departures: 1, at " in text
    kept = re.search(r"1\. at 0\.000 s: «somebody looks» is kept waiting for (\d) polls", text)
    assert kept is not None
    shorter = int(kept[1]) - 1
    told = f"execution, where «somebody looks» is kept waiting for {shorter} polls:"
    assert told in " ".join(text.split())


def test_words_for_departures() -> None:
    """A late loop, a thread, a cancel, a fault: each departure is named for what it is."""

    async def late(world: World) -> None:
        fired: list[int] = []
        for number, delay in enumerate((1, 1.005)):
            asyncio.get_running_loop().call_later(delay, fired.append, number)
        await asyncio.sleep(1)
        world.check(fired == [0], "one has fired after a second")

    assert "1. at 0.000 s: the loop is late, at 1.005 s" in text_of(late)

    async def faulty(world: World) -> None:
        world.check(world.choose("the disk", ["works", "is full"]) == "works", "it works")

    assert "1. at 0.000 s: the disk: is full (natural: works)" in text_of(faulty)

    async def cancelled(world: World) -> None:
        async def part() -> None:
            await asyncio.sleep(1)

        task = asyncio.create_task(part(), name="part")
        world.offer_cancels()
        await asyncio.wait([task])
        world.check(not task.cancelled(), "it is not cancelled")

    assert "part is cancelled before its next step" in text_of(cancelled)

    async def threads(world: World) -> None:
        seen: list[str] = []
        job = asyncio.ensure_future(asyncio.to_thread(seen.append, "thread"))
        await asyncio.sleep(0)
        seen.append("loop")
        await job
        world.check(seen[0] == "loop", "the loop comes first")

    assert "asyncio_0 (at start) goes on before the loop" in text_of(threads)


def test_a_natural_violation_has_a_passing_neighbour_with_a_departure() -> None:
    """Where natural order itself violates, one departure more may pass, and is printed."""

    async def program(world: World) -> None:
        order: list[str] = []

        async def actor(name: str) -> None:
            await world.outside(f"{name} comes")
            order.append(name)

        await asyncio.gather(actor("a"), actor("b"))
        world.check(order == ["b", "a"], "b goes first")

    text = text_of(program)
    assert "departures: none, it happens in natural order" in text
    told = "nearest passing execution, where, at 0.000 s, «b comes» lands before «a comes»:"
    assert told in " ".join(text.split())


def test_no_passing_execution_is_said() -> None:
    """What always fails has no passing neighbour, and the text does not make one up."""
    assert "no passing execution was found nearby (0 executions tried" in text_of(actors(1, 1))


def test_a_deadlock_names_the_circle() -> None:
    """Two locks taken in different orders: who waits, in which line, for whom, and the circle."""

    async def program(world: World) -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def actor(name: str, one: asyncio.Lock, other: asyncio.Lock) -> None:
            await world.outside(name)
            async with one:
                await asyncio.sleep(0)
                async with other:
                    pass

        async with asyncio.TaskGroup() as group:
            group.create_task(actor("a", first, second), name="a")
            group.create_task(actor("b", second, first), name="b")

    text = " ".join(text_of(program).split())
    assert "- they wait in a circle: a → b → a -" in text
    assert "- a waits in actor (tests/sim/test_explanation.py:" in text
    assert "`async with other:`) for the Lock that b has" in text
    assert "for the Lock that a has" in text
    assert "`async with asyncio.TaskGroup() as group:`) for a and b" in text


def test_tasks_that_wait_alike_are_told_together() -> None:
    """Twenty tasks that wait for one lock are one line, with how many there are."""

    async def program(world: World) -> None:
        lock = asyncio.Lock()

        async def actor() -> None:
            async with lock:
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(actor(), name=f"a{number}")

    text = " ".join(text_of(program).split())
    assert "- a1, a2, a3 and 16 more wait in actor (tests/sim/test_explanation.py:" in text
    assert "for the Lock that a0 has -" in text
    assert "- a0 waits in actor" in text


WAITS = {
    "Event.wait": "await asyncio.Event().wait()",
    "Queue.get": "await asyncio.Queue().get()",
    "Queue.put": "await (queue := asyncio.Queue(1)).put(0); await queue.put(1)",
    "Semaphore.acquire": "await asyncio.Semaphore(0).acquire()",
    "Condition.wait": "cond = asyncio.Condition(); await cond.acquire(); await cond.wait()",
    "Barrier.": "await asyncio.Barrier(2).wait()",
    "`await asyncio.get_running_loop().create_future()`": (
        "await asyncio.get_running_loop().create_future()"
    ),
    "for x and y": "await asyncio.gather(task('x'), task('y'))",
    "for p and q": "await asyncio.wait([task('p'), task('q')])",
    "for z": "await asyncio.wait_for(task('z'), None)",
    "for s, t, u and 2 more": "await asyncio.gather(*map(task, 'stuvw'))",
}


@pytest.mark.parametrize("told", WAITS)
def test_a_deadlock_names_what_is_waited_for(told: str) -> None:
    """For each thing that asyncio can wait for: what it is, or which tasks."""

    async def program(world: World) -> None:
        def task(name: str) -> asyncio.Task[bool]:
            return asyncio.create_task(asyncio.Event().wait(), name=name)

        source = f"async def waits():\n    {WAITS[told]}\n"
        found: dict[str, Any] = {"asyncio": asyncio, "task": task, "__name__": "somewhere"}
        code = compile(source, "somewhere.py", "exec")
        # So that the text of its line is found, too.
        linecache.cache["somewhere.py"] = (len(source), None, source.splitlines(True), "")
        exec(code, found)
        await asyncio.create_task(found["waits"](), name="waiter")

    text = " ".join(text_of(program).split())
    assert "- waiter waits in waits (somewhere.py:2 `" in text
    assert told in text.partition("waiter waits in")[2].partition(" - ")[0]


def test_tasks_that_await_each_other_are_a_circle() -> None:
    """A circle of tasks that await each other is printed as one."""

    async def program(world: World) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}

        async def actor(other: str) -> None:
            await asyncio.sleep(0)
            await tasks[other]

        for name, other in ("ab", "bc", "ca"):
            tasks[name] = asyncio.create_task(actor(other), name=name)
        await asyncio.wait(tasks.values())

    text = " ".join(text_of(program).split())
    assert "in a circle: a → b → c → a" in text


def test_a_livelock_names_who_spins() -> None:
    """Who polls without end is named, with how often it ran, and its line."""

    async def program(world: World) -> None:
        done: list[bool] = []

        async def poller() -> None:
            while not done:  # noqa: ASYNC110 - a livelock is meant
                await asyncio.sleep(0)

        await asyncio.create_task(poller(), name="poller")

    text = " ".join(text_of(program).split())
    spins = r"- task poller spins: it ran 20\d times, in poller \(tests/sim/test_explanation\.py:"
    assert re.search(spins, text)
    assert "program spins" not in text


def test_a_livelock_names_callbacks_that_spin() -> None:
    """A callback that calls itself again is named by its function."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.Event().wait()

    text = " ".join(text_of(program).split())
    assert re.search(r"- callback \S+\.again spins: it ran 20\d times -", text)


def test_where_it_was_checked() -> None:
    """The text names the place of the check that failed, or of what is asked at each poll."""
    assert "checked in program (tests/sim/test_explanation.py:" in text_of(actors(1, 1))

    async def program(world: World) -> None:
        def it_is_early() -> bool:
            return world.now < 1

        world.always("it is early", it_is_early)
        await asyncio.sleep(2)

    assert "checked in it_is_early (tests/sim/test_explanation.py:" in text_of(program)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(command, text, id=f"{document}: {command}")
        for document in WITH_COUNTEREXAMPLES
        for command, text in counterexamples(document)
        if command is not None
    ],
)
def test_the_counterexamples_of_the_documents(
    command: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They show what their commands print, but for digests and the numbers of lines."""
    assert main(command.split()[1:]) == 1
    lines = capsys.readouterr().out.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("violated at"))
    end = next(at for at, line in enumerate(lines) if line.startswith("replay: "))
    printed = "\n".join(lines[begin : end + 1])
    assert_fits(printed)
    assert lasting(printed) == lasting(shown.rstrip())


def test_documents_show_a_counterexample_of_each_command() -> None:
    """One of `check` and one of `simulate`; otherwise the test above would hold of nothing."""
    found = [each for document in WITH_COUNTEREXAMPLES for each in counterexamples(document)]
    commands = {command.split()[1] for command, _ in found if command is not None}
    assert commands == {"check", "simulate"}


async def loses_an_update(world: World) -> None:
    """As FastAPI's `def` endpoints: in threads of anyio, called through coroutines of a package."""
    stock = [1]

    def buy() -> bool:
        left = stock[0]
        time.sleep(0.01)
        stock[0] = left - 1
        return left > 0

    answers = await asyncio.gather(*(anyio.to_thread.run_sync(buy) for _ in range(2)))
    world.check(sum(answers) == 1, "one buyer gets the last piece")


def test_what_a_package_does_within_is_no_row_and_its_threads_are_told_apart() -> None:
    """Rows are for lines that the reader has written; two threads of one name have two columns."""
    report = explore(loses_an_update)
    assert report.counterexample is not None
    text = report.counterexample.text
    rows = text.partition("what happened")[2].partition("first difference")[0]
    assert "_asyncio.py" not in rows
    assert "AnyIO worker th" in rows
    assert " (2)" in rows
    assert "made in loses_an_update (test_explanation.py:" in rows
    assert "waits in time.sleep in buy (test_explanation.py:" in rows
