"""What is told of the program's lines: where it went wrong, by what ran, and without a guess."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import linecache
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from server.stores.lease import Lease
from server.stream_task import StreamTask
from sim import World, explore
from sim.bench.subjects.mutants import (
    MUTANTS,
    Mutant,
    broken,
    counterparts,
    mutant_named,
    replaced_by,
)
from sim.commands.pages import page_of_counterexample
from sim.counterexamples.excerpts import LINES_MAX, Excerpt, excerpts_of
from sim.counterexamples.fact import Fact, Mark, Pattern
from sim.kernel import watchdog
from sim.kernel.execution import Program
from sim.pages.chart import chart_rows
from sim.pages.story import Story, story_of
from sim.replay import subject_of
from tests.pages.programs import slot_that_is_lost
from tests.sim.connection_bugs import Till, of_uvicorn

AGENT = "agent_is_not_ended_before_pop"


def told(program: Program, **options: Any) -> Story:
    found = explore(program, **options).counterexample
    assert found is not None
    return story_of(program, found)


def line_of(function: Any, marker: str) -> int:
    """The line of its source that has the marker."""
    lines, first = inspect.getsourcelines(function)
    (at,) = [number for number, text in enumerate(lines, first) if marker in text]
    return at


def marked(story: Story) -> set[int]:
    return {mark.line for fact in story.facts for mark in fact.marks}


class Account:
    def __init__(self) -> None:
        self.balance = 0
        self.by_name: dict[str, int] = {}

    async def adds(self, amount: int) -> None:
        known = self.balance  # reads
        await asyncio.sleep(amount)  # waits
        self.balance = known + amount  # changes

    async def adds_to_what_there_is(self, amount: int) -> None:
        await asyncio.sleep(amount)
        self.balance += amount

    async def notes(self, name: str) -> None:
        known = self.by_name.get(name, 0)
        await asyncio.sleep(1)
        self.by_name[name] = known + 1


async def money_is_lost(world: World) -> None:
    account = Account()
    tasks = [asyncio.create_task(account.adds(each), name=f"adds {each}") for each in (1, 2)]
    await asyncio.wait(tasks)
    world.check(account.balance == 3, "nothing is lost", "adds 2 has lost what adds 1 has added")


def test_a_stale_read_has_its_three_lines() -> None:
    """Where it was read, where its reader waited meanwhile, and where it was changed: with what it
    had each time."""
    story = told(money_is_lost)
    (fact,) = story.facts
    lines = {name: line_of(Account, f"# {name}") for name in ("reads", "waits", "changes")}
    assert marked(story) == set(lines.values())
    assert f"both read 0 from `self.balance` at test_facts.py:{lines['reads']}" in fact.sentence
    assert (
        f"adds 1 changes `self.balance` to 1 at test_facts.py:{lines['changes']}" in fact.sentence
    )
    does = "adds 2 changes it there, too, to 2 (2.000 s), and has not read it again since 0.000 s"
    assert does in fact.sentence
    (excerpt,) = story.excerpts
    assert (excerpt.function, set(excerpt.says)) == ("adds", set(lines.values()))


def test_what_is_read_again_is_not_stale() -> None:
    """Nothing is said of a task that reads and changes within one step."""

    async def program(world: World) -> None:
        account = Account()
        await asyncio.gather(*(account.adds_to_what_there_is(each) for each in (1, 2)))
        world.check(account.balance == 4, "it is four", "Task-2 and Task-3 have added three")

    assert not any("read it again" in fact.sentence for fact in told(program).facts)


def test_what_was_waited_for_makes_nothing_stale() -> None:
    """Who reads, awaits a task, and changes what that one has changed, knows of it."""

    async def program(world: World) -> None:
        account = Account()

        async def adds_once_it_is_over(other: asyncio.Task[None]) -> None:
            if account.balance == 0:
                await asyncio.wait_for(other, 5)
            account.balance = 2

        first = asyncio.create_task(account.adds_to_what_there_is(1), name="first")
        second = asyncio.create_task(adds_once_it_is_over(first), name="second")
        await second
        world.check(False, "never", "second and first are over")

    assert not any("read it again" in fact.sentence for fact in told(program).facts)


def test_another_key_is_another_thing() -> None:
    """Who changes what lies under another key of a dictionary makes no read of it stale."""

    async def program(world: World) -> None:
        account = Account()
        names = [asyncio.create_task(account.notes(each), name=each) for each in ("a", "b")]
        await asyncio.wait(names)
        world.check(False, "never", "a and b")

    assert not any("read it again" in fact.sentence for fact in told(program).facts)


def test_a_cancel_that_is_swallowed_has_the_line_that_does() -> None:
    """Where it came up, which `except` caught it, and where the task went on."""

    async def works() -> None:
        try:
            await asyncio.sleep(10)  # is told
        except ValueError:
            pass
        except (asyncio.CancelledError, OSError):  # catches
            known = True
        del known  # goes on
        await asyncio.sleep(10)

    async def program(world: World) -> None:
        task = asyncio.create_task(works(), name="works")
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        world.check(task.done(), "who is told to end ends", "works goes on")

    story = told(program)
    assert marked(story) == {
        line_of(works, f"# {each}") for each in ("is told", "catches", "goes on")
    }
    assert f"caught at line {line_of(works, '# catches')}" in story.facts[0].sentence


def test_a_cancel_that_is_only_cleaned_up_after_is_not_swallowed() -> None:
    """`finally` catches nothing, and an `except` that raises it again does not keep it."""

    async def works() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise
        finally:
            await asyncio.sleep(0)

    async def program(world: World) -> None:
        task = asyncio.create_task(works(), name="works")
        await asyncio.sleep(1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        world.check(False, "never", "works is over")

    assert not any("is caught" in fact.sentence for fact in told(program).facts)


def test_a_line_that_runs_twice_is_told_where_it_passes_with_once() -> None:
    """The till withdraws once more where a request is sent again; uvicorn's steps are folded."""
    story = told(of_uvicorn(Till))
    (fact,) = story.facts
    line = line_of(Till, "self.balance -= 10")
    assert marked(story) == {line}
    assert (
        f"connection_bugs.py:{line}, which changes `self.balance`, runs twice here" in fact.sentence
    )
    assert "once where it passes" in fact.sentence
    assert not any("Task-" in step.actor for step in story.steps)
    folded = [row["folded"] for row in chart_rows(story, set()) if row["folded"]]
    assert any(" of " in each for each in folded), folded


def test_without_more_it_is_told_where_each_stands() -> None:
    """Who waits, at which line, and since when."""

    async def waits(event: asyncio.Event) -> None:
        await asyncio.sleep(1)
        await event.wait()  # stands

    async def program(world: World) -> None:
        event = asyncio.Event()
        task = asyncio.create_task(waits(event), name="waits")
        await asyncio.sleep(2)
        world.check(task.done(), "it is over", "waits is not")

    story = told(program)
    line = line_of(waits, "# stands")
    assert f"waits waits at test_facts.py:{line} since 1.000 s" in [
        fact.sentence for fact in story.facts
    ]


def test_a_process_that_goes_on_in_the_middle_of_a_step_has_its_last_line() -> None:
    """That is within the poll of another loop, and a step of its own all the same."""
    done: list[str] = []

    async def main() -> None:
        await asyncio.sleep(1)
        time.sleep(2)  # noqa: ASYNC251
        done.append("late")  # last

    async def program(world: World) -> None:
        world.host("h").run(main, name="v")
        await asyncio.sleep(2)
        await asyncio.sleep(3)
        world.check(False, "nothing is late", "v: main was")

    sentences = [fact.sentence for fact in told(program).facts]
    last = line_of(main, "# last")
    assert f"the last line of v: main is test_facts.py:{last} (3.000 s)" in sentences


def test_a_published_registry_is_shown_by_its_own_lines() -> None:
    """Where it reads who holds the session, where it waits, and where it takes it; no check's."""
    from sim.bench.subjects import quick_fix

    with subject_of("registry:racing_registers:quick_fix") as subject:
        found = explore(subject).counterexample
    assert found is not None
    told_of_it = page_of_counterexample(found).stories[0].story
    source = quick_fix.StreamRegistry
    lines = [
        line_of(source, each)
        for each in (
            'prev_trace = self._by_session.get(entry["session_id"])',
            "await asyncio.wait_for(prev_task, timeout=2.0)",
            'self._by_session[entry["session_id"]] = entry["trace_id"]',
        )
    ]
    (excerpt,) = told_of_it.excerpts
    assert excerpt.file.endswith("quick_fix.py")
    assert list(excerpt.says) == lines
    sentence = told_of_it.facts[0].sentence
    assert "p2's request and p3's request both read 'p1' from `self._by_session['s']`" in sentence
    assert "p2's request changes `self._by_session['s']` to 'p2' at" in sentence
    assert "p3's request changes it there, too, to 'p3' (0.200 s)" in sentence
    # So are the steps in which it happened, with what happened there.
    rows = [(step.actor, told) for step in told_of_it.steps for told in step.told]
    # Their first rows stand in the bench's file, those in which they go on in its own.
    assert [who for who, told in rows if f"quick_fix.py:{lines[0]}: " in told] == [
        "p2's request",
        "p3's request",
    ]
    assert [who for who, told in rows if f"line {lines[2]}: " in told] == [
        "p2's request",
        "p3's request",
    ]
    assert not any(step.is_minor for step in told_of_it.steps if step.told)
    # Whom it names has a column.
    have_one = {step.actor for step in told_of_it.steps if not step.is_minor}
    assert {"p2's request", "p3's request"} <= have_one


def test_of_a_mutant_the_broken_line_is_told_first() -> None:
    """With what production has in its place."""
    name = AGENT
    (code,) = replaced_by(mutant_named(name))
    assert code.co_qualname == "StreamTask._end_agent"
    with subject_of(f"server:second_prompt.async:mutant-{name}") as subject:
        found = explore(subject, max_executions=1).counterexample
    assert found is not None
    first, *rest = page_of_counterexample(found).stories[0].story.facts
    instead = line_of(StreamTask._end_agent, "async def _end_agent")
    assert first.marks[1] == Mark(code.co_filename, instead, "what production does in its place")
    assert first.marks[0].line == line_of(mutant_named(name).breaks, "patch.setattr")
    # And where it was called, since nothing of it runs.
    calls = line_of(StreamTask, "await self._end_agent()")
    assert first.marks[2].line == calls
    assert f"; stream-t1 calls what is broken at stream_task.py:{calls}" in first.sentence
    # Both calls, by the tasks that have them, in one sentence: they wait at one line.
    waits = rest[0]
    assert waits.sentence.startswith("agent-t2 and agent-t1 wait at ollama_async.py:")
    assert waits.marks[0].says == "agent-t2 and agent-t1 wait here"


def test_a_row_names_the_file_of_a_line_that_is_in_another() -> None:
    """A bare number is a line of the file in which the row stands: several files have one."""
    story = story_of_pause()
    line = mutant_named("lease_is_dated_from_the_reply").line
    places = {step.moment.place.file for step in story.steps if step.told and step.moment.place}
    assert not any(file.endswith("mutants/cluster.py") for file in places)
    assert [says for step in story.steps for says in step.told] == [
        f"cluster.py:{line}: w: acquire-2 runs it",
        f"cluster.py:{line}: v: acquire-1 runs it",
    ]


def test_of_a_broken_line_the_last_to_run_it_is_named() -> None:
    """Who ran it before stands at the line alone: here that did no harm."""
    story = story_of_pause()
    sentence = story.facts[0].sentence
    assert sentence.endswith("; that ran last in v: acquire-1 (7.006 s)")
    assert "acquire-2" in story.seen
    runs = [mark.says for mark in story.facts[0].marks if mark.step is not None]
    assert runs == ["6.310 s: w: acquire-2 runs it", "7.006 s: v: acquire-1 runs it"]


@cache
def story_of_pause() -> Story:
    """Of a lease that is extended by a reply that comes late."""
    with subject_of("cluster:pause:mutant-lease_is_dated_from_the_reply") as subject:
        found = explore(subject, strategy="departures", max_executions=300).counterexample
    assert found is not None
    return page_of_counterexample(found).stories[0].story


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # A function that does otherwise, below a condition.
        ("lease_is_dated_from_the_reply", "value = self._clock() + self._lease_s"),
        # One that calls production's, and then what production does not.
        ("stop_in_a_reply_is_not_heard", 'raise StoreUnreachable("not heard")'),
        # None of its own.
        ("flag_is_never_read", 'patch.setattr(StopSignal, "is_set"'),
    ],
)
def test_a_mutant_has_the_line_that_does_otherwise(name: str, text: str) -> None:
    """And not that at which it begins; wherever it is named, it is the same."""
    mutant = mutant_named(name)
    line = line_of(mutant.breaks, text)
    with broken(mutant):
        assert mutant.line == line
        assert mutant.place.endswith(f".py:{line})")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: str(each.name))
def test_every_mutant_has_such_a_line(mutant: Mutant) -> None:
    """It is one of its own, below that at which it begins."""
    lines, first = inspect.getsourcelines(mutant.breaks)
    assert first < mutant.line < first + len(lines)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: str(each.name))
def test_what_production_has_instead_is_production(mutant: Mutant) -> None:
    """The line is in a file of production, and where a mutant names one, it is that."""
    places = counterparts(mutant)
    assert {Path(file).parts[-2] for file, _ in places} <= {"registry", "server", "stores"}
    for (_, text), (file, line) in zip(mutant.instead, places, strict=False):
        assert linecache.getline(file, line).strip() == text


def test_a_mutant_that_is_a_copy_has_the_line_that_it_lacks() -> None:
    """One that does all otherwise has the function's first."""
    lacks = {name: counterparts(mutant_named(name))[0] for name in ("gate_is_not_asked", AGENT)}
    texts = {name: linecache.getline(*place).strip() for name, place in lacks.items()}
    assert texts["gate_is_not_asked"] == "self.raise_if_stopped()"
    assert texts[AGENT] == "async def _end_agent(self) -> None:"


def test_a_lease_is_dated_where_production_dates_it() -> None:
    """A mutant that hooks in from outside shows the line that it makes otherwise, not its hook."""
    ((file, line),) = counterparts(mutant_named("lease_is_dated_from_the_reply"))
    assert "asked + self._lease_s" in linecache.getline(file, line)
    assert line in range(*line_span(Lease._renew))


def line_span(function: Any) -> tuple[int, int]:
    lines, first = inspect.getsourcelines(function)
    return first, first + len(lines)


def test_threads_switch_at_the_same_lines_while_they_are_looked_at() -> None:
    """What threads do that are overtaken between lines comes back, with the lines noted as well."""
    subject_name = "server:client_leaves_waiting.thread:mutant-flag_is_never_read"
    with subject_of(subject_name) as subject:
        found = explore(subject, max_executions=1).counterexample
    assert found is not None
    story = page_of_counterexample(found).stories[0].story
    assert story.steps[-1].is_violation or any(each.is_violation for each in story.steps)
    assert "flag is never read" in story.facts[0].sentence


def test_a_task_that_went_another_way_has_the_line_after_which_it_did() -> None:
    """And not that of the check, although it is the program that finds the slot taken."""
    story = told(slot_that_is_lost)
    waits, releases = (
        line_of(slot_that_is_lost, each) for each in ('"the model answers"', "slots.release()")
    )
    assert marked(story) == {waits, releases}
    assert story.facts[0].sentence.startswith(
        f"after programs.py:{waits} answer gets CancelledError at line {waits} here, and goes to "
        f"line {releases} where it passes"
    )


def test_a_step_that_never_ends_has_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog breaks it off although its lines are noted, which took the count from it."""
    for name in ("TICK_S", "VIRTUAL_TICK_S", "SUSPECT_S"):
        monkeypatch.setattr(watchdog, name, getattr(watchdog, name) / 20)

    async def spins(world: World) -> None:
        await asyncio.sleep(1)
        number = 0
        while True:
            number += 1

    story = told(spins, step_lines_max=20_000)
    assert story.property == "each step gives the loop back"


def test_a_short_function_is_shown_whole(tmp_path: Path) -> None:
    """Without its docstring: what lies between the lines that are told of often matters."""
    excerpt = excerpt_of_function(tmp_path, lines=17, marked=12)
    all_of_it = [f"v{number} = 0" for number in range(17)]
    assert shown_of(excerpt) == ["def long():", "…", *all_of_it]


def test_of_a_longer_function_the_lines_around_are_shown(tmp_path: Path) -> None:
    """However far down, with the line that begins the function; a sign says that it goes on."""
    excerpt = excerpt_of_function(tmp_path, lines=40, marked=20)
    assert excerpt.function == "long"
    around = [f"v{number} = 0" for number in range(17, 24)]
    assert shown_of(excerpt) == ["def long():", "…", *around, "…"]


def test_every_line_that_is_told_of_is_shown(tmp_path: Path) -> None:
    """However far apart they are; the box has no more lines than it has room for."""
    file = tmp_path / "long.py"
    file.write_text("\n    ".join(["def long():", *(f"v{at} = 0" for at in range(90))]) + "\n")
    told = [20, 40, 60, 80]
    fact = Fact("", tuple(Mark(str(file), each, "here") for each in told), Pattern.STALE_READ)
    (excerpt,) = excerpts_of([fact])
    shown = [each[0] for each in excerpt.lines if each is not None]
    assert set(told) <= set(shown)
    assert len(shown) <= LINES_MAX


def excerpt_of_function(folder: Path, *, lines: int, marked: int) -> Excerpt:
    """Of a function with this many lines below its docstring, of which one is marked."""
    body = ['"""Its docstring,', "", 'is long."""', *(f"v{number} = 0" for number in range(lines))]
    file = folder / "long.py"
    file.write_text("\n    ".join(["def long():", *body]) + "\n", encoding="utf-8")
    at = 5 + marked
    (excerpt,) = excerpts_of([Fact("", (Mark(str(file), at, "here"),), Pattern.LAST)])
    assert excerpt.says == {at: ["here"]}
    return excerpt


def shown_of(excerpt: Excerpt) -> list[str]:
    return ["…" if each is None else each[1].strip() for each in excerpt.lines]
