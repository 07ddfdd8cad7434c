"""What no program should do, and what is not one: a verdict or an error that says so."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sim import (
    DepartureBounded,
    EventLoopPolicy,
    World,
    explore,
    new_event_loop,
    outcomes,
    run,
)
from sim.kernel import draining
from sim.kernel.errors import Misused, NotAProgram
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder

Program = Callable[[World], Awaitable[object]]


# ---- exits -----------------------------------------------------------------------------------


async def exits(world: World) -> None:
    sys.exit(3)


async def a_task_exits(world: World) -> None:
    async def leaves() -> None:
        raise SystemExit("enough")

    task = asyncio.create_task(leaves())
    await asyncio.sleep(1)
    await task


async def a_callback_exits(world: World) -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    await asyncio.sleep(1)


async def a_job_exits(world: World) -> None:
    await asyncio.to_thread(sys.exit, 4)


async def interrupts(world: World) -> None:
    raise KeyboardInterrupt


async def cleans_up_with_an_exit(world: World) -> None:
    async def leaves() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            sys.exit(5)

    asyncio.create_task(leaves(), name="leaves")  # noqa: RUF006
    await world.outside("the program ends", latest=1.0)


LEAVE = [exits, a_task_exits, a_callback_exits, a_job_exits, interrupts]


def leaves_stock(program: Any) -> bool:
    """Whether it ends stock asyncio with an exit or an interrupt, which no `except` there stops."""
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        asyncio.run(program(None))
    return True


@pytest.mark.parametrize("program", LEAVE)
def test_who_leaves_the_process_is_refuted(program: Program) -> None:
    """The exit ends stock asyncio's loop, wherever it is raised; here it refutes, and is named."""
    report = explore(program)
    assert leaves_stock(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "the program ends without an exception"
    assert ("KeyboardInterrupt" if program is interrupts else "SystemExit") in report.text


async def stops_the_loop(world: World) -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(1)


async def a_callback_stops_the_loop(world: World) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(0.001, loop.stop)
    await asyncio.Event().wait()


@pytest.mark.parametrize("program", [stops_the_loop, a_callback_stops_the_loop])
def test_who_stops_the_loop_is_refuted(program: Any) -> None:
    """Stopped before the program's end, `run_until_complete` raises, here as on stock."""
    for factory in (None, new_event_loop):
        with (
            pytest.raises(RuntimeError, match="Event loop stopped before Future completed"),
            asyncio.Runner(loop_factory=factory) as runner,
        ):
            runner.run(program(None))
    report = explore(program)
    assert report.verdict == "refuted"
    assert "Event loop stopped before Future completed" in report.text
    where = "stops_the_loop (" if program is stops_the_loop else "a callback"
    assert f"loop.stop() is called in {where}" in " ".join(report.text.split())


def test_a_loop_that_is_stopped_with_its_program_loses_nothing() -> None:
    """A stop in the program's last step changes nothing: what runs it stops the loop, too."""

    async def program(world: World) -> None:
        await asyncio.sleep(1)
        asyncio.get_running_loop().stop()

    assert explore(program).verdict == "proved"


def test_who_leaves_while_it_is_drained_is_no_violation() -> None:
    """The draining is not part of an execution: what is raised in it ends nothing."""
    report = explore(cleans_up_with_an_exit)
    assert report.verdict == "proved", report.text


def test_an_exit_leaves_nothing_behind() -> None:
    """What else ran when a task left is drained: the next execution is as the first."""

    async def program(world: World) -> None:
        other = asyncio.create_task(asyncio.sleep(100))
        if world.choose("who", ["nobody", "somebody"]) == "somebody":
            sys.exit()
        other.cancel()

    report = explore(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.executions == 2
    assert run(program).violation is None


# ---- the world, misused ----------------------------------------------------------------------


async def chooses_among_none(world: World) -> None:
    world.choose("the size", [])


async def begins_in_the_past(world: World) -> None:
    await world.outside("it comes", earliest=-1)


async def has_nothing_to_call(world: World) -> None:
    await world.outside("it comes", 1)


async def ends_before_it_begins(world: World) -> None:
    world.signal(15, earliest=2, latest=1)


async def checks_a_sentence(world: World) -> None:
    world.check("both count", False)  # type: ignore[arg-type]


async def checks_a_coroutine(world: World) -> None:
    awaited = asyncio.sleep(0)
    try:
        world.check(awaited, "it holds")
    finally:
        awaited.close()


async def asks_later(world: World) -> None:
    async def is_well() -> bool:
        return True

    world.always("all is well", lambda: is_well())  # type: ignore[arg-type, return-value]
    await asyncio.sleep(1)


async def swallows(world: World) -> None:
    with contextlib.suppress(ValueError):
        world.reached(3)  # type: ignore[arg-type]


async def in_a_task(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(chooses_among_none(world))


async def awaits_nothing() -> bool:
    return True


# By what is called, with what it says. What takes its time is awaited.
MISUSES: list[tuple[Callable[[Any], object], str]] = [
    (lambda world: world.outside("a", latest="2"), "latest='2') needs numbers of seconds"),
    (lambda world: world.outside("a", earliest=None), "earliest=None, latest=None) needs numbers"),
    (lambda world: world.outside("a", latest=math.nan), "latest=nan) needs numbers"),
    (lambda world: world.outside("a", earliest=math.inf), "'a' has the window [inf, inf]"),
    (lambda world: world.outside(3), "world.outside(3) needs a name"),
    (lambda world: world.outside("a", call="f"), "call='f') needs a plain function"),
    (lambda world: world.outside("a", call=awaits_nothing), "needs a plain function"),
    (lambda world: world.signal("TERM"), "world.signal('TERM') needs a signal"),
    (lambda world: world.signal(999), "world.signal(999) needs a signal"),
    (lambda world: world.signal(15, latest="x"), "latest='x') needs numbers of seconds"),
    (lambda world: world.choose("a", {1, 2}), "needs a name and a list of options"),
    (lambda world: world.choose("a", {1: 2}), "needs a name and a list of options"),
    (lambda world: world.choose("a", 3), "needs a name and a list of options"),
    (lambda world: world.choose(3, [1, 2]), "needs a name and a list of options"),
    (lambda world: world.always(bool, "s"), "needs a sentence, and then a function"),
    (lambda world: world.always("s", True), "needs a sentence, and then a function"),
    (lambda world: world.always("s", lambda: True, seen="t"), "needs a function without param"),
    (lambda world: world.always("s", awaits_nothing), "is a coroutine, which nobody awaits"),
    (lambda world: world.check(lambda: False, "s"), "no coroutine and no function"),
    (lambda world: world.check(world.loop.time, "s"), "no coroutine and no function"),
    (lambda world: world.check([].count, "s"), "no coroutine and no function"),
    (lambda world: world.reached(["a"]), "world.reached(['a']) needs a text"),
    (lambda world: world.shared([]), "world.shared([]) needs a text"),
    (lambda world: world.executor(threads_max=0), "threads_max is a whole number, 1 or more"),
    (lambda world: world.declare(3), "world.declare(3) needs the path of a file"),
    (lambda world: world.declare("no.py"), "world.declare('no.py') needs the path of a file"),
    (lambda world: world.offer_cancels("a"), "world.offer_cancels('a') needs a function"),
]


@pytest.mark.parametrize(("misuses", "says"), MISUSES)
def test_each_misuse_is_told_with_the_users_line(
    misuses: Callable[[World], object], says: str
) -> None:
    """Wrong types too: the error speaks of the call, and not of the simulator's inside."""

    async def program(world: World) -> None:
        result = misuses(world)
        if inspect.isawaitable(result):
            await result

    report = explore(program)
    assert report.verdict == "error"
    assert says in report.reason
    assert "(test_bad_programs.py:" in report.reason
    assert "arises in the simulator" not in report.reason


def test_a_detail_may_be_any_object() -> None:
    """It is shown as text."""

    async def program(world: World) -> None:
        world.check(False, "it holds", 3)  # type: ignore[arg-type]

    assert "seen: 3" in explore(program).text


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"spin_max": 0}, "spin_max=0 makes no sense: spin_max is a whole number, 1 or more"),
    ({"spin_max": "a"}, "spin_max is a whole number, 1 or more"),
    ({"spin_max": True}, "spin_max is a whole number, 1 or more"),
    ({"horizon_s": -1}, "horizon_s is a finite number of seconds, more than 0"),
    ({"horizon_s": math.inf}, "horizon_s is a finite number of seconds, more than 0"),
    ({"lateness_s": -1}, "lateness_s is a finite number of seconds, 0 or more"),
    ({"lateness_s": None}, "lateness_s is a finite number of seconds, 0 or more"),
    ({"passes_max": -1}, "passes_max is a whole number, 0 or more"),
    ({"passes_max": 1.5}, "passes_max is a whole number, 0 or more"),
    ({"step_lines_max": 0}, "step_lines_max is a whole number, 1 or more"),
    ({"entropy_seed": "x"}, "entropy_seed is a whole number"),
    ({"budget_s": -1}, "budget_s is a number of real seconds, 0 or more, or None"),
    ({"budget_s": math.nan}, "budget_s is a number of real seconds"),
    ({"max_executions": -1}, "max_executions is a whole number, 0 or more, or None"),
    ({"max_executions": "3"}, "max_executions is a whole number, 0 or more, or None"),
    ({"labels": "abc"}, "labels='abc' makes no sense: labels is a list of texts"),
    ({"labels": 3}, "labels is a list of texts"),
    ({"labels": [1]}, "labels is a list of texts"),
    ({"seed": "x"}, "seed is a whole number"),
    ({"isolate": "no"}, "isolate is True or False"),
    ({"unretrieved": "loud"}, "unretrieved is 'warn' or 'fail'"),
    ({"watch": 3}, "watch is a function"),
    ({"strategy": "nope"}, "strategy 'nope' is not known; there are staged, "),
    ({"strategy": None}, "strategy None is no scheduler"),
]


@pytest.mark.parametrize(("arguments", "says"), ARGUMENTS)
def test_an_argument_without_sense_is_refused(arguments: dict[str, Any], says: str) -> None:
    """With its value, what is allowed, and the line that gave it; nothing is executed."""
    with pytest.raises(Misused) as caught:
        explore(exits, **arguments)
    assert says in str(caught.value)
    assert str(caught.value).endswith("in test_an_argument_without_sense_is_refused)")
    assert "(test_bad_programs.py:" in str(caught.value)


def test_labels_may_be_a_generator() -> None:
    """It is read once."""

    async def program(world: World) -> None:
        world.reached("b")

    report = explore(program, labels=(each for each in ["a", "b"]))
    assert report.labels_missing == ("a",)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        (lambda: run(exits, 3), "schedule=3 makes no sense"),  # type: ignore[arg-type]
        (lambda: run(exits, bounds=3), "bounds=3 makes no sense"),  # type: ignore[arg-type]
        (lambda: run(exits, bounds=Bounds(spin_max=0)), "spin_max=0 makes no sense"),
        (lambda: next(outcomes(exits, "random")), "'random' is no sim.Scheduler"),  # type: ignore[arg-type]
        (lambda: DepartureBounded(-1), "departures_min=-1 makes no sense"),
        (lambda: DepartureBounded(2, 1), "departures_max=1 is less than departures_min=2"),
        (lambda: new_event_loop(seed="x"), "seed='x' makes no sense"),  # type: ignore[arg-type]
        (lambda: new_event_loop(horizon_s=-1), "horizon_s=-1 makes no sense"),
        (lambda: EventLoopPolicy(horizon_s="x"), "horizon_s='x' makes no sense"),  # type: ignore[arg-type]
    ],
)
def test_other_calls_refuse_as_explore_does(calls: Callable[[], object], says: str) -> None:
    """By the same table, with the line of the caller."""
    with pytest.raises(Misused) as caught:
        calls()
    assert says in str(caught.value)
    assert "(test_bad_programs.py:" in str(caught.value)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (asks_later, "is a coroutine, which nobody awaits"),
        (swallows, "world.reached(3) needs a text"),
        (chooses_among_none, "world.choose('the size', []) has no option"),
        (in_a_task, "world.choose('the size', []) has no option"),
        (checks_a_sentence, "world.check('both count', False) needs a condition"),
        (
            checks_a_coroutine,
            "'it holds') needs a condition, which is no coroutine and no function",
        ),
        (begins_in_the_past, "'it comes' has the window [-1.0, inf]"),
        (ends_before_it_begins, "'SIGTERM' has the window [2.0, 1.0]"),
        (has_nothing_to_call, "'it comes' has arguments (1,) and nothing to call"),
    ],
)
def test_a_misused_world_is_an_error_with_its_place(program: Program, says: str) -> None:
    """It says nothing of the program, so the verdict is an error: what is wrong, and where."""
    report = explore(program)
    assert report.verdict == "error"
    assert says.replace(".0", "") in report.reason.replace(".0", "")
    assert "test_bad_programs.py:" in report.reason


def test_a_predicate_that_raises_is_a_violation() -> None:
    """It is asked between two callbacks, where nothing of the program's could catch it."""

    async def program(world: World) -> None:
        world.always("there is a share", lambda: 1 / 0 > 0)
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "ZeroDivisionError('division by zero'), in what is asked for «there is a share»" in (
        report.text
    )


def test_what_is_seen_that_raises_is_a_violation() -> None:
    """It is asked as the predicate is, and of what it raises the verdict tells."""

    async def program(world: World) -> None:
        box: list[int] = []
        world.always("the box is empty", lambda: not box, seen=lambda: f"{box[5]}")
        await world.outside("one")
        box.append(1)
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "IndexError('list index out of range'), in what is asked for «the box is empty»" in (
        report.text
    )


async def sees_a_number(world: World) -> None:
    world.always("it is early", lambda: world.now < 1, seen=lambda: 5)  # type: ignore[arg-type, return-value]
    await asyncio.sleep(2)


async def sees_later(world: World) -> None:
    async def what() -> str:
        return "late"

    world.always("it is early", lambda: world.now < 1, seen=what)  # type: ignore[arg-type]
    await asyncio.sleep(2)


@pytest.mark.parametrize(
    ("program", "says"), [(sees_a_number, "and is int 5, of "), (sees_later, "and is coroutine")]
)
def test_what_is_seen_that_is_no_text_is_an_error_with_its_place(
    program: Program, says: str
) -> None:
    """What was observed is to be read."""
    report = explore(program)
    assert report.verdict == "error", report.text
    assert says in report.reason
    assert "test_bad_programs.py:" in report.reason


# ---- what is no program ----------------------------------------------------------------------


async def takes_nothing() -> None:
    """The world is missing."""


async def takes_two(world: World, other: int) -> None:
    """One too many."""


def is_no_coroutine_function(world: World) -> int:
    return 3


async def yields(world: World) -> AsyncIterator[int]:
    yield 1


class Client:
    async def plays(self, world: World) -> None:
        """A method of a client."""


NO_PROGRAMS: dict[str, tuple[Any, str]] = {
    "without a parameter": (takes_nothing, "takes_nothing() cannot be called"),
    "with two": (takes_two, "missing a required argument: 'other'"),
    "an unbound method": (Client.plays, "missing a required argument: 'world'"),
    "a plain function": (is_no_coroutine_function, "it returns 3, and cannot be awaited"),
    "a generator": (yields, "it has a `yield`"),
    "a number": (3, "3 is not a program"),
    "nothing": (None, "None is not a program"),
}


@pytest.mark.parametrize("name", NO_PROGRAMS)
def test_what_is_no_program_is_a_bad_argument(name: str) -> None:
    """TypeError, which says what a program is; no verdict on what was never run."""
    program, says = NO_PROGRAMS[name]
    for calls in (
        lambda: explore(program),
        lambda: run(program),
        lambda: list(outcomes(program, NaturalOrder())),
    ):
        with pytest.raises(TypeError) as caught:
            calls()
        assert isinstance(caught.value, NotAProgram)
        assert says in str(caught.value)
        assert "async def" in str(caught.value)


def test_a_coroutine_is_no_program() -> None:
    """Who passes `program(world)` in place of `program` is told so, without a warning."""
    with pytest.raises(TypeError, match="give the function takes_nothing itself"):
        explore(takes_nothing())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "program",
    [
        Client().plays,
        functools.partial(takes_two, other=1),
        lambda world: Client().plays(world),
        lambda world: asyncio.sleep(0),
    ],
)
def test_whatever_returns_an_awaitable_is_a_program(program: Program) -> None:
    """A bound method, a partial, a function that returns a coroutine."""
    assert explore(program).verdict == "proved"


# ---- a loop that runs already ----------------------------------------------------------------


@pytest.mark.parametrize(
    "calls",
    [
        lambda: explore(exits),
        lambda: run(exits),
        lambda: next(outcomes(exits, NaturalOrder())),
    ],
)
def test_within_a_running_loop_it_is_refused(calls: Callable[[], object]) -> None:
    """One sentence says where to call it, and no coroutine is left that nobody awaits."""

    async def main() -> None:
        calls()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="in this thread a loop is running: call"):
            asyncio.run(main())


# ---- tasks that swallow every cancel ----------------------------------------------------------

Body = Callable[[asyncio.Queue[int]], Awaitable[object]]


async def in_time(queue: asyncio.Queue[int]) -> None:
    async with asyncio.timeout(1):
        await queue.get()


async def in_a_group(queue: asyncio.Queue[int]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(queue.get())


def swallows(body: Body, *, is_violated: bool) -> Program:
    """A task that a bare `except` keeps from ever ending."""

    async def program(world: World) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()

        async def keeps_on() -> None:
            while True:
                try:
                    await body(queue)
                except:  # noqa: E722
                    continue

        asyncio.create_task(keeps_on(), name="keeps on")  # noqa: RUF006
        await asyncio.sleep(0.1)
        world.check(not is_violated, "nothing is wrong")

    return program


BODIES: list[Body] = [
    asyncio.Queue.get,
    lambda queue: asyncio.sleep(1),
    lambda queue: asyncio.wait_for(queue.get(), 1),
    in_time,
    in_a_group,
]


@pytest.mark.parametrize("body", BODIES)
def test_a_task_that_swallows_every_cancel_is_named(body: Body) -> None:
    """It goes on where it is closed as well, and without a loop for ever: so it never is."""
    report = explore(swallows(body, is_violated=False))
    assert report.verdict == "error"
    assert "keeps on waits in " in report.reason
    assert "(tests/sim/test_bad_programs.py:" in report.reason
    assert "`except:`" in report.reason


@pytest.mark.parametrize("body", BODIES)
def test_a_task_that_swallows_every_cancel_hides_no_violation(body: Body) -> None:
    """What was found before the end of the execution is kept, and comes back on replay."""
    report = explore(swallows(body, is_violated=True))
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "nothing is wrong"


def test_what_lands_again_and_again_does_not_keep_an_execution_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that swallows its cancels and waits for what comes at once is polled for, no more."""

    async def program(world: World) -> None:
        async def keeps_on() -> None:
            while True:
                try:
                    await world.outside("it comes", earliest=0.001 * (world.now < 1))
                except:  # noqa: E722
                    continue

        asyncio.create_task(keeps_on(), name="keeps on")  # noqa: RUF006
        await asyncio.sleep(0.5)

    monkeypatch.setattr(draining, "_POLLS_MAX", 2_000)
    report = explore(program, strategy="natural")
    assert report.verdict == "error"
    assert "keeps on outlived" in report.reason


# ---- places ----------------------------------------------------------------------------------


async def runs_a_shell_in_a_thread(world: World) -> None:
    await asyncio.to_thread(os.system, "true")


async def runs_a_shell_in_a_thread_of_its_own(world: World) -> None:
    threading.Thread(target=os.system, args=("true",)).start()


async def runs_a_shell_in_a_pool(world: World) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(os.system, "true")


async def ends_itself(world: World) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (
            runs_a_shell_in_a_thread,
            "in a thread of runs_a_shell_in_a_thread (tests/sim/test_bad_programs",
        ),
        (runs_a_shell_in_a_thread_of_its_own, "in a thread of runs_a_shell_in_a_thread_of_its_own"),
        (
            runs_a_shell_in_a_pool,
            "in a thread of runs_a_shell_in_a_pool (tests/sim/test_bad_programs",
        ),
        (ends_itself, "SIGTERM to the own process in ends_itself (tests/sim/test_bad"),
    ],
)
def test_what_is_refused_has_a_place_of_the_programs(program: Program, says: str) -> None:
    """Also where a thread runs a function of the library's: then who has started it."""
    report = explore(program)
    assert report.verdict == "error"
    assert says in report.reason


def test_a_stop_iteration_has_the_place_that_raised_it() -> None:
    """The RuntimeError that it becomes arises where the simulator awaits the program."""

    async def program(world: World) -> None:
        raise StopIteration

    text = explore(program).text
    assert "raised in program (tests/sim/test_bad_programs.py:" in " ".join(text.split())
    assert "execution.py" not in text
