"""State that outlives an execution is named, and never decides a verdict."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

import sim.exploration.request
from sim import Report, World, explore
from sim.executors.processes import processes
from sim.exploration.fresh_copy import FreshCopy
from sim.exploration.module_state import ModuleState
from sim.exploration.progress import Progress
from sim.exploration.request import Request, explored
from sim.kernel import forks, watchdog
from sim.kernel.forks import ForkEnded, ForkTooLate, in_a_fork
from sim.schedulers import DepartureBounded, Scheduler
from tests.sim import surviving_programs as programs

Program = Callable[[World], Awaitable[object]]

pytestmark = [
    pytest.mark.skipif(not forks.are_possible(), reason="this system cannot fork"),
    pytest.mark.fresh_copies,
]


# Where state survives, some executions in forks look for a violation: fifty, if none is asked for.
FORKS = 5

# ---- what is said ----------------------------------------------------------------------------

HOLD = {
    "lock": (programs.lock_of_a_module, "LOCK._loop was", "an event loop that is closed"),
    "counter": (programs.counts_executions, "counter was 0, then 1", "is not violated in a fresh"),
    "default": (programs.keeps_in_its_default, "a list of 0, then a list of 1", "step 2 in"),
    "environment": (
        programs.changes_the_environment,
        "ONESTREAM_TEST_SURVIVES is new",
        "step 2 in",
    ),
}
"""Programs that hold on stock asyncio, by what differs in a second execution."""


@pytest.mark.parametrize("name", HOLD)
def test_what_survives_is_named(name: str) -> None:
    """Which variable of which module, what it was and is, where the runs differ, and what to do."""
    program, variable, seen = HOLD[name]
    # It holds on stock asyncio.
    in_a_fork(lambda: asyncio.run(program(_stock_world())))
    report = in_a_fork(lambda: explore(program, max_executions=FORKS))
    assert report.verdict == "inconclusive"
    assert "state survived" in report.reason
    assert variable in report.reason
    assert seen in report.reason
    assert "make it inside the program, or let each execution run in a fork" in report.reason


def _stock_world() -> World:
    """Enough of one for a program on stock asyncio."""

    class Stock:
        async def outside(self, name: str, **window: float) -> None:
            await asyncio.sleep(0.001)

        def check(self, condition: bool, sentence: str, detail: str) -> None:
            assert condition, sentence

    return cast("World", Stock())


def test_a_lock_that_an_execution_keeps_is_told_by_its_state() -> None:
    """Whether the closure has the lock itself or what stands for it in executions is none."""
    lock = threading.Lock()

    async def keeps(_: World) -> None:
        lock.acquire()

    report = in_a_fork(lambda: explore(keeps, max_executions=FORKS))
    said = " ".join(report.reason.split())
    assert "was a lock that is free, then a lock that is held" in said


def test_a_lock_that_only_departures_bind_refutes_nothing() -> None:
    """Natural order binds it to no loop; a violation by a lock of another loop is none."""
    report = in_a_fork(lambda: explore(programs.lock_that_is_rarely_contended))
    assert report.verdict == "inconclusive"
    assert "surviving_programs.NARROW._loop was" in report.reason
    assert "bound to a different event loop" in report.unconfirmed


def test_a_lock_of_an_earlier_exploration_refutes_nothing() -> None:
    """A second test of the module finds it bound: inconclusive as well, in natural order too."""

    def explored_twice() -> list[Report]:
        return [explore(programs.lock_of_a_module, isolate=isolate) for isolate in (False, True)]

    for report in in_a_fork(explored_twice):
        assert report.verdict == "inconclusive"
        assert "state survived" in report.reason
    assert in_a_fork(lambda: explore(programs.lock_of_a_module, isolate=True)).verdict == "proved"


REFUTED = {
    "leak": (programs.semaphore_that_leaks, "the answer is 1", "SLOTS._value was 1, then 0"),
    "cache": (programs.cache_of_a_class, "the database is asked once", "Cache.values was a dict"),
}
"""Programs with a violation that is real, and that leave state behind."""


def test_what_is_proved_when_the_limit_ends_the_search_is_compared_as_well() -> None:
    """A bound was finished before; that nothing survived is asked all the same."""
    scheduler = DepartureBounded(0, 3)
    program = programs.changes_by_a_departure
    report = in_a_fork(lambda: explore(program, strategy=scheduler, max_executions=3))
    assert report.verdict == "inconclusive", report.text
    assert "step 2 in natural order was" in report.reason


KEPT = {
    "module": "surviving_programs.last was '', then 'b'",
    "list": "surviving_programs.ORDER was a list of 0",
    "class": "surviving_programs.Desk.last was '', then 'b'",
    "cache": "surviving_programs.newest was a full cache (calls so far: 1), then a full cache (cal",
}
"""Of programs that begin each execution with the same, by where they keep what states lack."""


@pytest.mark.parametrize("place", KEPT)
def test_where_modules_decide_matched_states_prove_nothing(place: str) -> None:
    """No state is read there, so two may be taken for one; other strategies rest on nothing."""
    program = getattr(programs, f"keeps_the_order_in_a_{place}")
    report = in_a_fork(lambda: explore(program, strategy="states"))
    assert report.verdict == "inconclusive", report.text
    assert KEPT[place] in report.reason
    assert in_a_fork(lambda: explore(program, strategy="depth-first")).verdict == "proved"


def test_without_an_answer_of_a_fresh_process_matched_states_prove_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What modules hold is then not known; a proof that rests on nothing of it stays one."""
    monkeypatch.setattr(FreshCopy, "ask", lambda *_: None)
    report = in_a_fork(lambda: explore(programs.forgets_the_order, strategy="states"))
    assert report.verdict == "inconclusive", report.text
    assert "there was no answer from a fresh process" in report.reason
    report = in_a_fork(lambda: explore(programs.forgets_the_order, strategy="depth-first"))
    assert report.verdict == "proved", report.text


@pytest.mark.parametrize("program", [programs.forgets_the_order, programs.asks_a_cache])
def test_where_modules_decide_nothing_matched_states_prove(program: Program) -> None:
    """The control: a cache that keeps the same in each order decides nothing either."""
    report = in_a_fork(lambda: explore(program, strategy="states"))
    assert report.verdict == "proved", report.text
    assert "states matched" in report.claim


async def _violates(world: World) -> None:
    assert world.choose("the answer", [1, 2]) == 1, "the answer is 1"


def test_a_violation_that_no_fresh_process_has_repeated_is_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did not answer in time: then it is not known whether anything survived."""
    monkeypatch.setattr(FreshCopy, "ask", lambda *_: None)
    report = explore(_violates)
    assert report.verdict == "refuted"
    assert "not repeated in a fresh process" in report.reason


@pytest.mark.socket  # real time: a second
@pytest.mark.parametrize("name", ["blocks", "blocks_if_it_is_late"])
def test_with_several_processes_what_blocks_ends_with_the_budget(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first runs and in those of a worker; a limit of its own would be two minutes."""
    for what in ("TICK_S", "VIRTUAL_TICK_S", "GRACE_S"):
        monkeypatch.setattr(watchdog, what, 0.1)
    monkeypatch.setattr("sim.exploration.request.AGAIN_S", 0.1)
    request = Request(f"{programs.__name__}:{name}", "depth-first", budget_s=1)
    report = explored(request, Progress(None), executor=processes(2))
    assert report.verdict == "inconclusive"
    assert "the budget is spent" in report.reason
    assert report.seconds < watchdog.STEP_S / 2


@pytest.mark.parametrize("is_repeatable", [True, False])
def test_what_does_not_come_back_has_the_rest_of_the_budget(
    is_repeatable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several processes come to nothing one explores again, and not for as long again."""
    budgets: list[float] = []
    explore_alone = sim.exploration.request._explored_alone

    def note_budget(*given: Any) -> Report:
        budgets.append(given[3])
        return explore_alone(*given)

    monkeypatch.setattr("sim.exploration.request._explored_alone", note_budget)
    monkeypatch.setattr("sim.exploration.request._is_repeatable", lambda *_: is_repeatable)
    monkeypatch.setattr("sim.exploration.request._is_confirmed", lambda *_: False)
    request = Request(f"{__name__}:_violates", "depth-first", budget_s=100)
    explored(request, Progress(None), executor=processes(2))
    (budget_s,) = budgets
    assert 0 < budget_s < 100


@pytest.mark.parametrize("name", REFUTED)
def test_a_real_violation_is_shown_all_the_same(name: str) -> None:
    """It comes back in fresh processes: refuted, and what survives is named as well."""
    program, violated, variable = REFUTED[name]
    report = in_a_fork(lambda: explore(program))
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == violated
    assert variable in report.reason
    again = in_a_fork(lambda: report.counterexample and report.counterexample.replay(program))
    assert again is not None
    assert again.violation is not None
    assert again.violation.property == violated


# ---- names of tasks --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["depth-first", "states", "random"])
def test_a_counter_in_the_names_of_tasks_decides_nothing(strategy: str) -> None:
    """A library that numbers its tasks for the whole process: the violation is a counterexample."""
    report = explore(programs.numbers_its_tasks, strategy=strategy, max_executions=10)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "the bug"
    assert "state survived" not in report.reason


def test_an_address_in_the_names_of_tasks_decides_nothing() -> None:
    """Nor the order in which a group, which keeps them in a set, cancels them."""
    report = explore(programs.names_its_tasks_by_address)
    assert report.verdict == "proved", report.text


# ---- isolate=True ----------------------------------------------------------------------------

STRATEGIES: list[str | Callable[[], Scheduler]] = [
    "depth-first",
    lambda: DepartureBounded(2),
    "random",
    "portfolio",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_isolation_a_violation_is_found_shrunk_and_replayed(
    strategy: str | Callable[[], Scheduler],
) -> None:
    """The counterexample replays as often as it is asked for, though the program leaks."""
    scheduler = strategy if isinstance(strategy, str) else strategy()
    report = explore(
        programs.semaphore_that_leaks, strategy=scheduler, isolate=True, max_executions=40
    )
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.schedule.endswith("/1=1")
    assert "the answer: 2 (natural: 1)" in report.counterexample.text
    for _ in range(2):
        outcome = report.counterexample.replay(programs.semaphore_that_leaks)
        assert outcome.violation is not None
        assert outcome.trace
    assert programs.SLOTS._value == 1


@pytest.mark.parametrize("name", ["lock", "counter"])
def test_in_isolation_what_holds_on_stock_is_proved(name: str) -> None:
    """Every execution begins with the modules as they were before the first."""
    report = explore(HOLD[name][0], isolate=True)
    assert report.verdict == "proved", report.text
    assert "each in a fork of its own" in report.reason


def test_isolation_sees_the_same_tree() -> None:
    """As many executions, labels and verdicts as without, under a search and at random."""

    async def program(world: World) -> None:
        order: list[str] = []

        async def comes(name: str) -> None:
            await world.outside(name, latest=0)
            order.append(name)

        await asyncio.gather(*map(comes, "abc"))
        world.reached("".join(order))

    for strategy in ("depth-first", "random"):
        plain, isolated = (
            explore(program, strategy=strategy, isolate=isolate, max_executions=6)
            for isolate in (False, True)
        )
        assert plain.executions == isolated.executions
        assert plain.labels == isolated.labels
        assert plain.verdict == isolated.verdict


@pytest.mark.parametrize("strategy", ["states", "reduced", "cancel everywhere"])
def test_who_watches_from_within_cannot_isolate(strategy: str) -> None:
    """What a scheduler reads of an execution's memory is in another process: a bad argument."""
    with pytest.raises(ValueError, match="watches each execution from within"):
        explore(programs.counts_executions, strategy=strategy, isolate=True)


async def leaves_at_once(world: World) -> None:
    await asyncio.sleep(1)
    in_a_fork.__globals__["_leave"](7)


def test_a_process_that_ends_in_an_execution_is_an_error() -> None:
    """It is told with its exit code, and this process goes on."""
    report = explore(leaves_at_once, isolate=True)
    assert report.verdict == "error"
    assert "the process of an execution ended with exit code 7 before it was over" in report.reason


# ---- forks -----------------------------------------------------------------------------------


def test_a_fork_changes_nothing_here() -> None:
    """It returns what its function returns, and raises what that raises."""
    changed: list[int] = []
    assert in_a_fork(lambda: changed.append(1) or os.getpid()) != os.getpid()
    assert changed == []
    with pytest.raises(KeyError, match="gone"):
        in_a_fork(lambda: {}["gone"])
    with pytest.raises(ForkEnded, match="exit code 1"):
        in_a_fork(sys.exit)


@pytest.mark.parametrize("interrupted", ["fork", "parent"])
def test_a_ctrl_c_between_fork_and_life_is_one_of_its_process(
    interrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither sends the fork up its parent's stack nor leaves the parent without its fork."""
    assert forks._fork is not None
    fork, pids = forks._fork, []

    def fork_and_interrupt() -> int:
        pid = fork()
        pids.append(pid)
        if (pid == 0) == (interrupted == "fork"):
            signal.raise_signal(signal.SIGINT)
        return pid

    monkeypatch.setattr(forks, "_fork", fork_and_interrupt)
    # A process that was begun in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((ForkEnded, KeyboardInterrupt)) as raised:
            in_a_fork(lambda: None)
    finally:
        signal.signal(signal.SIGINT, before)
    is_here = raised.type is KeyboardInterrupt
    assert is_here == (interrupted == "parent")
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], 0)


def test_a_fork_that_does_not_answer_is_ended() -> None:
    """However it blocks."""
    with pytest.raises(ForkTooLate, match="had not answered in time"):
        in_a_fork(lambda: sum(itertools.count()), 0.1)


def test_state_is_read_wherever_it_is_kept() -> None:
    """Attributes, slots, containers in containers, closures, function attributes, caches."""

    class Slotted:
        __slots__ = ("kept",)

        def __init__(self) -> None:
            self.kept = [1]

    slotted, nested = Slotted(), {"a": [{"b": 1}]}
    numbers = (number for number in range(5))

    def program(world: World) -> object:
        return slotted, nested, numbers

    before = ModuleState(program)
    next(numbers)
    slotted.kept.append(2)
    nested["a"][0]["b"] = 2
    program.calls = 3  # type: ignore[attr-defined]
    changes = "\n".join(before.changes(ModuleState(program)))
    assert "slotted, a variable of " in changes
    assert ".kept was a list of 1, then a list of 2" in changes
    assert "['a'][0]['b'] was 1, then 2" in changes
    # Since 3.15 how far a generator is in a range stands on its stack, which cannot be read.
    if sys.version_info < (3, 15):
        assert "numbers, a variable of " in changes
        assert "was an iterator with 5 left, then an iterator with 4 left" in changes


def test_who_refers_weakly_to_what_is_kept_is_no_state() -> None:
    """A slot shows it, as of SQLAlchemy's classes: nothing that the object holds changed."""

    class Slotted:
        __slots__ = ("__weakref__",)

    slotted = Slotted()

    def program(world: World) -> object:
        return slotted

    before = ModuleState(program)
    reference = weakref.ref(slotted)
    assert before.changes(ModuleState(program)) == []
    assert reference() is slotted


@pytest.mark.parametrize("size", [4, None])
def test_a_cache_is_read_by_what_it_has_kept(size: int | None) -> None:
    """One that keeps as many other calls has changed; one that was asked for the same has not."""
    cache = functools.lru_cache(size)(str)

    def program(world: World) -> object:
        return cache

    cache(1)
    before = ModuleState(program)
    cache(1)
    assert before.changes(ModuleState(program)) == []
    cache.cache_clear()
    cache(2)
    (change,) = before.changes(ModuleState(program))
    assert "cache, a variable of " in change
