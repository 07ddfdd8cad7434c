"""A counterexample's text names the pattern, and the lines of the program that went wrong."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any

import pytest

from sim import World, explore
from sim.counterexamples import lined
from sim.counterexamples.explanation import FACTS_LINES_MAX
from sim.kernel.execution import Program

CACHE: dict[str, object] = {}


def told(program: Program, **options: Any) -> list[str]:
    """The lines of the text between what was checked and the departures."""
    found = explore(program, **{"max_executions": 5000, **options}).counterexample
    assert found is not None
    lines = found.text.splitlines()
    end = next(at for at, line in enumerate(lines) if line.startswith("departures: "))
    # What is seen, and who checked it, goes on in lines that are indented.
    begin = next(at for at in range(1, end + 1) if not lines[at].startswith(" "))
    return lines[begin:end]


def line_of(function: Any, marker: str) -> int:
    lines, first = inspect.getsourcelines(function)
    (at,) = [number for number, text in enumerate(lines, first) if f"# {marker}" in text]
    return at


class Account:
    def __init__(self) -> None:
        self.balance = 0

    def adds(self, amount: int) -> None:
        known = self.balance
        self.balance = known + amount  # changes


def test_a_lost_update_is_told_where_the_violation_names_nobody() -> None:
    """The check at the end names no task, and the text says who lost whose update, and where."""

    async def program(world: World) -> None:
        count = 0

        async def adds() -> None:
            nonlocal count
            known = count  # reads
            await asyncio.sleep(1)
            count = known + 1

        await asyncio.gather(adds(), adds())
        world.check(count == 2, "both count")

    lines = told(program)
    assert 1 <= len(lines) <= FACTS_LINES_MAX
    reads = line_of(program, "reads")
    assert lines[0].startswith(
        f"lost update: Task-1 and Task-2 both read `count` at test_facts_in_texts.py:{reads}"
    )


def test_a_check_of_a_module_s_container_is_told_as_one() -> None:
    """Two find the key missing, wait, and both put something under it."""

    async def program(world: World) -> None:
        CACHE.clear()

        async def get(key: str) -> object:
            if key not in CACHE:
                await world.outside("it is fetched")
                CACHE[key] = object()
            return CACHE[key]

        one, two = await asyncio.gather(get("k"), get("k"))
        world.check(one is two, "one object for a key")

    text = " ".join(line.strip() for line in told(program))
    assert text.startswith("check-then-act: Task-1 and Task-2 both read `CACHE` at ")


def test_a_thread_that_was_overtaken_has_waited_for_nothing() -> None:
    """It reads, another changes it before its next line, and then it changes it by what it read."""

    async def program(world: World) -> None:
        world.declare(__file__)
        account = Account()
        await asyncio.gather(*(asyncio.to_thread(account.adds, 1) for _ in range(2)))
        world.check(account.balance == 2, "both count")

    text = " ".join(line.strip() for line in told(program))
    changes = line_of(Account, "changes")
    assert text.startswith("lost update: asyncio_")
    assert f"and is overtaken before test_facts_in_texts.py:{changes};" in text


def test_a_thread_that_sleeps_waits() -> None:
    """Between its two lines it is not overtaken, but waits for the time, and so it is told."""

    async def program(world: World) -> None:
        counts = {"all": 0}

        def adds() -> None:
            known = counts["all"]
            time.sleep(0.1)
            counts["all"] = known + 1

        threads = [threading.Thread(target=adds) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            await asyncio.to_thread(each.join)
        world.check(counts["all"] == 2, "both count")

    text = " ".join(line.strip() for line in told(program))
    assert "both read `counts` at " in text
    assert "overtaken" not in text


def test_a_step_of_the_loop_that_waits_for_a_thread_has_waited() -> None:
    """What the loop's thread runs after a worker's turn is no more of that turn: the worker was
    overtaken, and the loop waits for its lock."""

    async def program(world: World) -> None:
        world.declare(__file__)
        account = Account()
        lock = threading.Lock()

        def adds() -> None:
            with lock:
                time.sleep(1)
                account.balance += 1

        async def loops() -> None:
            known = account.balance
            lock.acquire()  # waits
            account.balance = known + 1
            lock.release()

        thread = threading.Thread(target=adds)
        thread.start()
        await asyncio.sleep(0)
        await asyncio.create_task(loops())
        await asyncio.to_thread(thread.join)
        world.check(account.balance == 2, "both count")

    text = " ".join(map(str.strip, told(program)))
    line = line_of(program, "waits")
    assert f"and waits at test_facts_in_texts.py:{line}; meanwhile" in text, text


def test_what_the_passing_execution_does_too_is_not_told() -> None:
    """A stale read that is there without the violation as well has not led to it."""

    async def program(world: World) -> None:
        account = Account()

        async def adds() -> None:
            known = account.balance
            await asyncio.sleep(1)
            account.balance = known + 1

        async def waits() -> str:
            await world.outside("the answer comes", latest=5)
            return "answer"

        await asyncio.gather(adds(), adds())
        try:
            async with asyncio.timeout(2):
                got = await waits()
        except TimeoutError:
            got = ""
        world.check(got == "answer", "the answer comes in time")

    assert not any("both read" in line for line in told(program))


def test_a_line_that_a_worker_has_run_before_counts_once() -> None:
    """With threads in the execution, too, each line of the loop's tasks is noted once."""

    async def program(world: World) -> None:
        changed: list[int] = []
        await asyncio.to_thread(time.sleep, 0.1)
        changed.append(1)
        late = asyncio.create_task(world.outside("late", latest=1))
        await asyncio.sleep(0.5)
        world.check(late.done(), "it comes in time")

    assert not any("twice" in line for line in told(program))


def test_in_forks_the_text_has_the_facts_too() -> None:
    """With isolate=True as well, where no execution is in this process."""

    async def program(world: World) -> None:
        account = Account()

        async def adds() -> None:
            known = account.balance
            await asyncio.sleep(1)
            account.balance = known + 1

        await asyncio.gather(adds(), adds())
        world.check(account.balance == 2, "both count")

    lines = told(program, isolate=True, strategy="depth-first")
    assert lines[0].startswith("lost update: ")


def test_of_a_long_execution_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of lines the rest is not noted, and a part of them proves nothing."""
    monkeypatch.setattr(lined, "OF_TEXT_MAX", 10)

    async def program(world: World) -> None:
        account = Account()

        async def adds() -> None:
            known = account.balance
            await asyncio.sleep(1)
            account.balance = known + 1

        await asyncio.gather(adds(), adds())
        world.check(account.balance == 2, "both count")

    assert told(program) == []


class Counted:
    def __init__(self) -> None:
        self.count = 0
        self.items: list[int] = []

    def current(self) -> int:
        return self.count

    async def asks_a_helper(self, amount: int) -> None:
        known = self.count
        await asyncio.sleep(amount)
        known = self.current()
        self.count = known + amount

    async def adds_in_place(self, amount: int) -> None:
        assert self.count >= 0
        await asyncio.sleep(amount)
        self.count += amount

    async def reads_after_the_await(self, amount: int) -> None:
        self.count = await answers(amount) + self.count


async def answers(amount: int) -> int:
    await asyncio.sleep(amount)
    return amount


@pytest.mark.parametrize(
    "works", [Counted.asks_a_helper, Counted.adds_in_place, Counted.reads_after_the_await]
)
def test_what_is_read_again_in_any_way_is_no_stale_read(works: Any) -> None:
    """In a method that is called for it, in the line that changes it, or after what that awaits."""

    async def program(world: World) -> None:
        counted = Counted()
        await asyncio.gather(works(counted, 1), works(counted, 2))
        world.check(counted.count == 4, "it is four")

    assert told(program) == []


def test_variables_of_two_calls_of_a_function_are_two() -> None:
    """Each closure has its own, and no other's change makes what was read of it stale."""

    def counter() -> Any:
        count = 0

        async def adds(seconds: int) -> int:
            nonlocal count
            known = count
            await asyncio.sleep(seconds)
            count = known + 1
            return count

        return adds

    async def program(world: World) -> None:
        got = await asyncio.gather(counter()(1), counter()(2))
        world.check(sum(got) == 3, "they share it")

    assert told(program) == []


def test_a_function_that_is_made_has_changed_nothing_yet() -> None:
    """What a lambda would change is changed when it is called."""

    async def program(world: World) -> None:
        counted = Counted()

        async def counts() -> None:
            known = len(counted.items)
            await asyncio.sleep(2)
            counted.items.append(known)

        async def makes() -> None:
            await asyncio.sleep(1)
            calls = [lambda: counted.items.append(1)]
            calls.clear()

        async with asyncio.TaskGroup() as group:
            group.create_task(counts())
            group.create_task(makes())
        world.check(len(counted.items) == 2, "there are two")

    assert told(program) == []


def test_a_line_has_changed_it_once_what_it_awaits_is_over() -> None:
    """And not when that goes on in between: the other's change comes before, and no one's after."""

    async def program(world: World) -> None:
        counted = Counted()

        async def answers_late() -> int:
            await asyncio.sleep(1)
            await asyncio.sleep(2)
            return 5

        async def sets() -> None:
            counted.count = await answers_late()

        async def adds() -> None:
            known = counted.count
            await asyncio.sleep(2)
            counted.count = known + 1

        await asyncio.gather(sets(), adds())
        world.check(counted.count == 6, "both count")

    assert told(program) == []


def test_when_a_thread_changes_it_after_a_wait_in_the_line_is_not_told() -> None:
    """A line that takes a lock first begins before it changes anything."""

    async def program(world: World) -> None:
        account = Account()
        lock = threading.Lock()

        def adds() -> None:
            with lock:
                known = account.balance
                time.sleep(0.5)
                account.balance = known + 1

        def adds_in_a_line() -> None:
            with lock: account.balance += 1  # noqa: E701 # fmt: skip

        threads = [threading.Thread(target=each) for each in (adds, adds_in_a_line)]
        for each in threads:
            each.start()
        for each in threads:
            await asyncio.to_thread(each.join)
        world.check(account.balance == 3, "there are three")

    assert told(program) == []


def test_a_cancel_that_is_passed_on_later_is_not_swallowed() -> None:
    """The task catches it, does something, and raises it again after its handler."""

    async def works(done: list[str]) -> None:
        caught = None
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError as exc:
            caught = exc
        done.append("cleaned up")
        if caught is not None:
            raise caught

    async def program(world: World) -> None:
        done: list[str] = []
        task = asyncio.create_task(works(done), name="works")
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        world.check(not done, "nothing is done", "works has")

    assert told(program) == []
