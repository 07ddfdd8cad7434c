"""The default strategy: which stage finds, what a proof rests on, and what to try where it ends."""

from __future__ import annotations

import asyncio
import io
import random
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sim import Report, World, explore
from sim.exploration.strategies import DEFAULT_STRATEGY
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.schedulers import DepthFirst, NaturalOrder, Staged
from sim.schedulers.states.frame_memory import UNREAD_FROM
from tests.sim.surviving_programs import hides_in_a_global


def waits_for(*names: str, first: str = "", fails: bool = False) -> Program:
    """Outside events that are awaited together; wrong if `first` is the first to come."""

    async def program(world: World) -> None:
        order: list[str] = []

        async def comes(name: str) -> None:
            await world.outside(name, latest=0.0)
            order.append(name)

        await asyncio.gather(*map(comes, names))
        world.check(not fails and order[:1] != [first], "it is not the first")

    return program


async def needs_all_late(world: World) -> None:
    """Wrong where each of twelve choices is its second option, or all but one are the first."""
    taken = [world.choose(f"choice {number}", ["first", "second"]) for number in range(12)]
    world.check("first" in taken, "not all are the second")


async def needs_one_late(world: World) -> None:
    """Wrong where the last of forty choices alone is the second option."""
    taken = [world.choose(f"choice {number}", ["first", "second"]) for number in range(40)]
    world.check(taken != ["first"] * 39 + ["second"], "not the last alone")


@pytest.mark.parametrize(
    ("program", "stage"),
    [
        (waits_for("a", "b", fails=True), "natural"),
        (waits_for("a", "b", first="b"), "random"),
        (needs_one_late, "up to 1 departure"),
        (needs_all_late, "states"),
    ],
    ids=["everywhere", "often", "once departed", "only in all"],
)
def test_each_stage_finds_what_the_earlier_ones_do_not(program: Program, stage: str) -> None:
    """Natural order, random executions, one departure, every schedule; the report says which."""
    report = explore(program, max_executions=10_000)
    assert (report.verdict, report.strategy) == (Verdict.REFUTED, DEFAULT_STRATEGY)
    assert report.found_by == stage
    assert f"found by {stage}" in report.reason


def test_a_program_without_a_choice_has_one_execution() -> None:
    """Nothing is drawn where nothing is to be drawn, and the claim rests on nothing."""
    report = explore(waits_for("a"))
    assert (report.verdict, report.executions, report.claim) == (
        Verdict.PROVED,
        1,
        "every schedule",
    )
    assert report.complete == 1.0


def test_the_claim_says_what_the_proof_rests_on() -> None:
    """Of states only where some were matched: not if none was read, or one departure is all."""

    async def has_an_object(world: World) -> None:
        mark = object()
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "abc"))
        world.check(mark is not None, "it is there")

    async def chooses(world: World) -> None:
        world.choose("colour", ["red", "blue"])

    matched = explore(waits_for("a", "b", "c"))
    claims = [explore(each).claim for each in (has_an_object, chooses)]
    assert claims == ["every schedule", "every schedule"]
    assert (matched.verdict, matched.claim) == (Verdict.PROVED, "every schedule, states matched")


def test_no_verdict_before_an_execution() -> None:
    """A limit of none ends it before natural order, and that proves nothing."""
    report = explore(waits_for("a"), max_executions=0)
    assert (report.verdict, report.executions) == (Verdict.INCONCLUSIVE, 0)


def test_states_that_an_audit_refutes_are_left() -> None:
    """What would be an error of `states` is proved depth-first, and the claim is without them."""
    plain = explore(hides_in_a_global, strategy="depth-first")
    assert explore(hides_in_a_global, strategy="states").verdict is Verdict.ERROR
    report = explore(hides_in_a_global)
    assert (report.verdict, report.claim) == (Verdict.PROVED, "every schedule")
    assert report.executions > plain.executions
    assert report.labels == plain.labels


def test_who_found_it_is_named_though_the_audit_refutes_states_then() -> None:
    """The violation is of the stage that ran, also where the next one takes over at once."""

    class RefutedAtOnce(Staged):
        def learn(self, violated: str | None, labels: set[str]) -> str | None:
            super().learn(violated, labels)
            if violated is not None:
                self._now = DepthFirst()
            return None

    async def fails_at_once(world: World) -> None:
        world.check(False, "it holds")

    assert explore(fails_at_once, strategy=RefutedAtOnce()).found_by == "natural"


def next_of(report: Report) -> str:
    assert report.verdict is Verdict.INCONCLUSIVE, report.text
    return report.reason.partition("; next: ")[2]


@pytest.mark.parametrize(
    ("strategy", "executions", "words"),
    [
        ("staged", 3, "it came to few schedules"),
        ("staged", 400, 'give it more, let the program do less, or prove less, with strategy="dep'),
        ("depth-first", 50, 'strategy="staged", the default, finds most bugs sooner'),
        ("random", 5, 'it never proves; strategy="staged"'),
        ("portfolio", 5, "it never proves"),
        ("pct", 5, "it never proves"),
        ("natural", None, "it never proves"),
        ("departures", 10, "give it more, or let the program do less"),
    ],
)
def test_where_it_ends_the_report_names_the_next_thing_to_try(
    strategy: str, executions: int | None, words: str
) -> None:
    """One sentence, by the strategy, and how far it came."""
    program = waits_for(*"abcd")
    assert words in next_of(explore(program, strategy=strategy, max_executions=executions))


class ReadRandom(random.Random):
    def canonical_state(self) -> object:
        return self.getstate()


class Member:
    pass


MARK = object()


@pytest.mark.parametrize(
    ("unread", "read", "words"),
    [
        (object, lambda: MARK, "an object() made by the execution: make it once, when the module"),
        (
            lambda: random.Random(1),
            lambda: ReadRandom(1),
            "random.Random: use a subclass with a method canonical_state()",
        ),
        (
            lambda: {Member(), Member()},
            lambda: {Member(): None, Member(): None},
            "a set of Member, which hash by address: keep its members in a dict or a list",
        ),
        (
            lambda: sqlite3.connect(":memory:"),
            dict,
            "sqlite3.Connection: no state has what a database holds: open it, use it and close it",
        ),
        (
            lambda: io.TextIOWrapper(io.BytesIO()),
            lambda: Path(__file__).read_text(encoding="utf-8"),
            "_io.TextIOWrapper: no state has what is in a file: read or write it whole within one",
        ),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(
    unread: Callable[[], object], read: Callable[[], object], words: str
) -> None:
    """Where no state could be read, the sentence says why; who does as it says has states read."""

    def holds(make: Callable[[], object]) -> Callable[[World], Awaitable[None]]:
        async def program(world: World) -> None:
            held = make()
            await asyncio.gather(*(world.outside(name, latest=0.0) for name in "abcd"))
            world.check(held is not None, "it is there")
            if hasattr(held, "close"):
                held.close()

        return program

    assert f"no state was read, because of {words}" in next_of(
        explore(holds(unread), max_executions=400)
    )
    report = explore(holds(read), max_executions=400)
    assert "no state was read" not in report.reason


@pytest.mark.skipif(sys.version_info >= UNREAD_FROM, reason="no stack of a thread is read there")
def test_a_thread_that_waits_within_c_is_named_with_its_line() -> None:
    """What `list` has collected when the thread waits for the next result nobody reads."""

    def squares(collect: Callable[[Iterator[int]], list[int]]) -> Program:
        def job() -> list[int]:
            with ThreadPoolExecutor(2) as pool:
                return collect(pool.map(abs, range(2)))

        async def program(world: World) -> None:
            world.check(await asyncio.to_thread(job) == [0, 1], "each is there")

        return program

    words = next_of(explore(squares(list), max_executions=30))
    where = "job (tests/sim/test_staged.py:"
    assert f"a worker thread that waits within a call in C: {where}" in words, words
    assert "write that call in Python, as a loop in place of list(…), have fewer threads" in words
    by_loop = explore(squares(lambda found: [each for each in found]), max_executions=30)
    assert "no state was read" not in by_loop.reason


def test_departures_by_name_prove_as_far_as_they_came() -> None:
    """`departures` names the last bound that was finished; without one it is inconclusive."""
    report = explore(waits_for(*"abcd"), strategy="departures", max_executions=400)
    assert report.verdict is Verdict.PROVED
    assert report.claim == "every schedule with up to 1 departure"
    assert explore(waits_for("a", "b"), strategy="departures").claim == "every schedule"


def test_in_isolation_it_reads_no_states() -> None:
    """Each execution is in a process of its own then, so the last stage is depth-first."""
    report = explore(waits_for("a", "b"), isolate=True)
    assert (report.verdict, report.claim) == (Verdict.PROVED, "every schedule")
    assert report.strategy == DEFAULT_STRATEGY


def test_without_a_stage_of_departures() -> None:
    """For measurements the stages can be set; the first is always natural order."""
    staged = Staged(random_executions=2, departures=None)
    assert staged.next_execution()
    assert staged.at_work == NaturalOrder.name
    report = explore(waits_for("a", "b", "c"), strategy=Staged(departures=None))
    assert report.verdict is Verdict.PROVED
