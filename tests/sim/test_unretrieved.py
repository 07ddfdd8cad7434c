"""Exceptions that nobody retrieves, and coroutines that nobody awaits."""

from __future__ import annotations

import asyncio
import gc
import re
import warnings
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import pytest

from sim import World, explore
from sim.cli import main
from sim.exploration.report import Report
from sim.export.file import NotExportable
from sim.kernel.execution import Program
from sim.kernel.violation import Kind
from tests.sim.stock_world import run_on_stock


@pytest.fixture(autouse=True)
def _warnings_are_shown_once() -> Iterator[None]:
    """Python's own warnings of coroutines are not what is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


NEVER_AWAITED = "coroutine 'never' was never awaited"


async def fails() -> None:
    raise ValueError("no")


async def never() -> None:
    raise AssertionError("nobody awaits it")


async def dead_task(world: World) -> None:
    """A background task dies, and the program goes on."""
    asyncio.create_task(fails(), name="background")  # noqa: RUF006
    await asyncio.sleep(1)


async def dead_task_in_a_cycle(world: World) -> None:
    """Only the collector would free it."""
    holder: list[Any] = []

    async def background() -> None:
        holder.append((asyncio.current_task(), holder))
        await fails()

    asyncio.create_task(background(), name="background")  # noqa: RUF006
    await asyncio.sleep(1)


async def lost_future(world: World) -> None:
    """A future is failed that nobody reads."""
    asyncio.get_running_loop().create_future().set_exception(ValueError("no"))
    await asyncio.sleep(1)


async def unawaited(world: World) -> None:
    """An await is missing."""
    never()
    await asyncio.sleep(1)


async def unawaited_until_the_end(world: World) -> None:
    """It is freed with the program's own frame."""
    kept = [never()]
    await asyncio.sleep(1)
    assert kept


LEFT_BEHIND: dict[Program, str] = {
    dead_task: "background ended with ValueError('no') in fails (",
    dead_task_in_a_cycle: "background ended with ValueError('no') in fails (",
    lost_future: "a future has an exception that nobody retrieves: ValueError('no')",
    unawaited: "the coroutine never (test_unretrieved.py:",
    unawaited_until_the_end: "the coroutine never (test_unretrieved.py:",
}


def explored(program: Program, unretrieved: Literal["warn", "fail"] = "warn") -> Report:
    return explore(program, max_executions=500, unretrieved=unretrieved)


@pytest.mark.parametrize("program", LEFT_BEHIND, ids=lambda each: each.__name__)
def test_it_is_a_warning_of_the_report(program: Program) -> None:
    """The verdict is stock's: proved. The text says what asyncio would log, and when."""
    report = explored(program)
    assert report.verdict == "proved"
    assert report.unretrieved is not None
    assert report.unretrieved.seen[0].startswith(LEFT_BEHIND[program])
    assert f"\nwarning: {report.unretrieved.seen[0]}\n" in report.text
    assert report.unretrieved.schedule.endswith("/natural")


@pytest.mark.parametrize("program", LEFT_BEHIND, ids=lambda each: each.__name__)
def test_it_fails_where_that_is_asked_for(program: Program) -> None:
    """Its counterexample names it, and replays by its schedule alone."""
    report = explored(program, "fail")
    assert report.verdict == "refuted"
    found = report.counterexample
    assert found is not None
    assert found.property == Kind.UNRETRIEVED.value
    assert f"  seen: {LEFT_BEHIND[program]}" in found.text
    violation = found.replay(program).violation
    assert violation is not None
    assert (violation.kind, violation.at) == (Kind.UNRETRIEVED, pytest.approx(1.0))


async def retrieved(world: World) -> None:
    """By who awaits it, by gather, by a group, or by asking for it."""
    with suppress(ValueError):
        await asyncio.create_task(fails())
    await asyncio.gather(fails(), fails(), return_exceptions=True)
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
    (done, _) = await asyncio.wait([asyncio.create_task(fails())])
    assert done.pop().exception() is not None


async def retrieved_as_the_program_ends(world: World) -> None:
    """By the clean-up of a task that still runs, as under asyncio.run."""
    failing = asyncio.create_task(fails())

    async def supervises() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            failing.exception()

    supervisor = asyncio.create_task(supervises())
    await asyncio.sleep(1)
    assert not supervisor.done()


async def with_a_handler(world: World) -> None:
    """The program has a handler of its own for what is not retrieved."""
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    await dead_task(world)


async def only_cancelled(world: World) -> None:
    """Who is cancelled has no exception, and one that is cancelled before it begins is closed."""
    asyncio.create_task(never()).cancel()
    task = asyncio.create_task(asyncio.sleep(9))
    await asyncio.sleep(1)
    task.cancel()


@pytest.mark.parametrize(
    "program",
    [retrieved, retrieved_as_the_program_ends, with_a_handler, only_cancelled],
    ids=lambda each: each.__name__,
)
def test_what_is_retrieved_is_no_warning(program: Program) -> None:
    """Nothing is said of it, also where it would fail."""
    report = explored(program, "fail")
    assert (report.verdict, report.unretrieved) == ("proved", None)


async def sometimes(world: World) -> None:
    """Retrieved, unless the failure comes before the program looks."""

    async def background() -> None:
        await world.outside("the peer fails", latest=1)
        raise ValueError("no")

    task = asyncio.create_task(background(), name="background")
    await world.outside("somebody looks", latest=1)
    if not task.done():
        with suppress(ValueError):
            await task


@pytest.mark.parametrize("strategy", ["depth-first", "states"])
def test_it_is_found_in_the_schedule_that_has_it(strategy: str) -> None:
    """Not in natural order; matching states does not take a state with a dead task for another."""
    assert explore(sometimes, strategy="natural").unretrieved is None
    report = explore(sometimes, strategy=strategy, max_executions=500, unretrieved="fail")
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert "background ended with ValueError('no')" in report.counterexample.text


def test_the_first_one_is_reported_whenever_memory_is_freed() -> None:
    """The schedule that is named does not depend on the collector."""
    schedules = set()
    for collects in (False, True):
        if collects:
            gc.collect()
        report = explored(sometimes)
        assert report.unretrieved is not None
        schedules.add(report.unretrieved.schedule)
    assert len(schedules) == 1


def test_a_deadlock_names_the_task_that_died() -> None:
    """Who waits for it in vain stands next to it."""

    async def program(world: World) -> None:
        answered = asyncio.Event()

        async def reader() -> None:
            await fails()
            answered.set()

        reading = asyncio.create_task(reader(), name="reader")
        await answered.wait()
        await reading

    report = explored(program)
    assert report.counterexample is not None
    assert report.counterexample.property == Kind.DEADLOCK.value
    assert "  - reader ended with ValueError('no') in fails (" in report.counterexample.text


def test_a_deadlock_names_what_nobody_awaits() -> None:
    """A forgotten `await` is often why nothing comes any more."""

    async def program(world: World) -> None:
        event = asyncio.Event()

        async def sets() -> None:
            event.set()

        sets()  # type: ignore[unused-coroutine]
        await event.wait()

    report = explored(program)
    assert report.counterexample is not None
    assert report.counterexample.property == Kind.DEADLOCK.value
    text = " ".join(report.counterexample.text.split())
    assert "- the coroutine sets (test_unretrieved.py:" in text
    assert "is never awaited" in text


def test_what_it_may_be() -> None:
    """Another word for it is refused."""
    words = "unretrieved='ignore' makes no sense: unretrieved is 'warn' or 'fail'"
    with pytest.raises(ValueError, match=words):
        explore(dead_task, unretrieved="ignore")  # type: ignore[arg-type]


def test_python_warns_once_at_the_programs_line() -> None:
    """As without the simulator, the place is where it was dropped; executions don't repeat it."""

    async def program(world: World) -> None:
        world.choose("which", [1, 2, 3])
        with warnings.catch_warnings():
            # So that the warnings module has forgotten what it has shown.
            warnings.simplefilter("always", RuntimeWarning)
        await unawaited(world)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", RuntimeWarning)
        report = explore(program, max_executions=20)
    assert report.executions > 3
    assert [(each.filename, str(each.message)) for each in heard] == [
        (__file__, "coroutine 'never' was never awaited")
    ]


def test_a_program_that_catches_pythons_warning_has_it_in_each_execution() -> None:
    """A second one that caught nothing would be another program."""

    async def program(world: World) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            never()  # type: ignore[unused-coroutine]
        world.check([str(each.message) for each in caught] == [NEVER_AWAITED], "it is caught")

    assert explore(program).verdict == "proved"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_command_takes_it(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With one process and with several; without it, the command prints the warning."""
    program = "tests.sim.test_unretrieved:sometimes"
    command = ["explore", program, "--strategy", "depth-first", "--jobs", jobs]
    assert main(command) == 0
    assert "\nwarning: background ended with ValueError('no')" in capsys.readouterr().out
    assert main([*command, "--unretrieved", "fail"]) == 1
    printed = capsys.readouterr().out
    assert Kind.UNRETRIEVED.value in printed
    (schedule,) = re.findall(r"onestream replay (\S+)", printed)
    assert main(["replay", schedule]) == 1
    assert Kind.UNRETRIEVED.value in capsys.readouterr().out


MARKED = """
import asyncio
import pytest

async def fails():
    raise ValueError("no")

@pytest.mark.explore
async def test_warns():
    task = asyncio.create_task(fails(), name="background")
    await asyncio.sleep(1)

@pytest.mark.explore(unretrieved="fail")
async def test_fails():
    task = asyncio.create_task(fails(), name="background")
    await asyncio.sleep(1)
"""


def test_the_marker_takes_it(pytester: pytest.Pytester) -> None:
    """The default is a warning of pytest's, by which the test passes."""
    pytester.makepyfile(MARKED)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "default")
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    result.stdout.fnmatch_lines(["*UnretrievedWarning*warning: background ended with ValueError*"])


def test_it_cannot_be_exported() -> None:
    """The file would judge nothing at its end, and say that all is well."""
    found = explored(dead_task, "fail").counterexample
    assert found is not None
    with pytest.raises(NotExportable, match="what nobody retrieves is judged by the simulator"):
        found.export(dead_task)


async def drops_a_task(world: Any) -> None:
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context["message"]))
    freed = weakref.ref(asyncio.create_task(fails()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.check(freed() is None, "nobody keeps it")
    world.check(heard == ["Task exception was never retrieved"], "its exception is told")


def test_a_finished_task_is_freed_when_the_program_drops_it() -> None:
    """Its weak references die at once, and the loop's handler hears of its exception."""
    report = explore(drops_a_task)
    assert report.verdict == "proved", report.text


@pytest.mark.socket
def test_stock_asyncio_frees_it_then() -> None:
    """The same program, on the system's own loop."""
    _, result = run_on_stock(drops_a_task, 0)
    assert result is None
