"""States: what is one and the same, what is not, and that the search misses nothing by them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sys
import threading
from contextlib import closing
from random import Random
from typing import Any

import pytest

from registry import StreamRegistry
from sim import explore
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.bench.scenarios.server_level import SERVER_SCENARIOS
from sim.bench.scenarios.sized import Size, SizedScenario
from sim.bench.subjects import PUBLISHED, registry_class
from sim.bench.subjects.mutants.base import Mutant, broken
from sim.bench.subjects.mutants.registry import REGISTRY_MUTANTS
from sim.exploration.runs import outcomes
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.kernel.world import World
from sim.schedulers import DepartureBounded, DepthFirst, Scheduler, StateMatching
from sim.schedulers.states import matching as matching_module
from sim.schedulers.states.frame_memory import UNREAD_FROM
from sim.schedulers.states.set_layout import layout_around_one, layout_of_set
from tests.sim.random_programs import random_program
from tests.sim.random_threads import random_threads
from tests.sim.surviving_programs import hides_in_a_global

Ends = set[tuple[str | None, tuple[str, ...]]]

SMALL_EXECUTIONS = 400
LARGE_EXECUTIONS = 2000

# Scenarios with more than a hundred executions.
LARGE = {
    *("racing_registers", "interrupt_overtakes_queue", "caller_leaves_overtaken"),
    *("caller_leaves_while_waiting", "swallowed_cancel", "cancel_while_waiting"),
    *("reject_when_busy", "two_sessions"),
}


def ends_of(program: Program, scheduler: Scheduler, executions_max: int) -> Ends | None:
    """Every end that the search comes to, failures included; None if there are too many."""
    ends: Ends = set()
    with silenced(), closing(outcomes(program, scheduler)) as found:
        for number, outcome in enumerate(found):
            if number == executions_max:
                return None
            assert outcome.error is None
            violated = outcome.violation.property if outcome.violation is not None else None
            if not getattr(scheduler, "is_cut", False):
                ends.add((violated, tuple(sorted(outcome.labels))))
    return ends


def assert_same_ends(program: Program, executions_max: int) -> None:
    plain = ends_of(program, DepthFirst(), executions_max)
    if plain is None:
        pytest.skip(f"plain search has more than {executions_max} executions")
    assert ends_of(program, StateMatching(with_labels=True), 3 * executions_max) == plain


@pytest.fixture
def every_meeting_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_module, "AUDIT_PROBABILITY", 1.0)


REGISTRIES: dict[str, type[Any]] = {
    "production": StreamRegistry,
    **{name: registry_class(name) for name in PUBLISHED},
}


def ends_within(program: Program, departures: int, *, matched: bool) -> Ends | None:
    """Every end with up to this number of departures."""
    plain = DepartureBounded(departures)
    states = StateMatching(with_labels=True, departures_max=departures)
    return ends_of(program, states if matched else plain, LARGE_EXECUTIONS)


def with_departures() -> list[Any]:
    """Each scenario with one and with two; the suite has the fastest of these."""
    in_suite = {(each.name, 1) for each in REGISTRY_SCENARIOS if each.name not in LARGE}
    in_suite |= {("explicit_cancel", 2)}
    return [
        pytest.param(
            scenario,
            departures,
            id=f"{scenario.name}-{departures}",
            marks=[pytest.mark.thorough] * ((scenario.name, departures) not in in_suite),
        )
        for scenario in REGISTRY_SCENARIOS
        for departures in (1, 2)
        # It has more than LARGE_EXECUTIONS.
        if (scenario.name, departures) != ("racing_registers", 2)
    ]


@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize(("scenario", "departures"), with_departures())
def test_the_same_ends_within_a_number_of_departures(scenario: Any, departures: int) -> None:
    """What is kept waiting may land for nothing, so it is a part of the state then."""
    program = scenario.program_for(StreamRegistry)
    plain = ends_within(program, departures, matched=False)
    if plain is None:
        pytest.skip(f"plain search has more than {LARGE_EXECUTIONS} executions")
    assert ends_within(program, departures, matched=True) == plain


@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize("registry", REGISTRIES)
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(each, marks=[pytest.mark.thorough] * (each.name in LARGE))
        for each in REGISTRY_SCENARIOS
    ],
    ids=lambda each: each.name,
)
def test_the_same_ends_as_plain_search(registry: str, scenario: Any) -> None:
    """Each violation and each set of labels that plain search comes to, states come to as well."""
    cls = REGISTRIES[registry]
    if not scenario.applies_to(cls):
        pytest.skip("the registry has not the methods for it")
    assert_same_ends(scenario.program_for(cls), SMALL_EXECUTIONS)


@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize("mutant", REGISTRY_MUTANTS, ids=lambda each: each.name)
@pytest.mark.thorough
def test_mutants_come_to_the_same_ends(mutant: Mutant) -> None:
    """A broken line is found wherever plain search finds it, with all that it leads to."""
    for scenario in REGISTRY_SCENARIOS:
        if scenario.name in mutant.likely:
            with broken(mutant):
                assert_same_ends(scenario.program_for(StreamRegistry), SMALL_EXECUTIONS)


@pytest.mark.soak
@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize("mutant", REGISTRY_MUTANTS, ids=lambda each: each.name)
@pytest.mark.parametrize("scenario", REGISTRY_SCENARIOS, ids=lambda each: each.name)
def test_mutants_come_to_the_same_ends_everywhere(mutant: Mutant, scenario: Any) -> None:
    """Every mutant on every scenario that plain search exhausts within 2,000 executions."""
    with broken(mutant):
        assert_same_ends(scenario.program_for(StreamRegistry), LARGE_EXECUTIONS)


@pytest.mark.soak
@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize("scenario", SERVER_SCENARIOS, ids=lambda each: each.name)
def test_the_server_comes_to_the_same_ends(scenario: Any) -> None:
    """The whole server, with either client, where plain search exhausts it."""
    assert_same_ends(scenario.program_for(StreamRegistry), LARGE_EXECUTIONS)


@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize(
    "size",
    [
        Size(2, 2),
        *(
            pytest.param(each, marks=pytest.mark.thorough)
            for each in (Size(1, 2, 1), Size(1, 3), Size(1, 2, 0, 1))
        ),
    ],
    ids=str,
)
def test_stories_of_a_size_come_to_the_same_ends(size: Size) -> None:
    """Whatever happens when in a small story, states come to what plain search comes to."""
    assert_same_ends(SizedScenario(size).program_for(StreamRegistry), LARGE_EXECUTIONS)


# Of random programs those with few schedules: the others would be compared with nothing.
OF_TASKS = (4, 5, *range(8, 15), 16, 20, 22, 24, 25, 28, 31, 33, 35)
OF_THREADS = (5, 7, 9, 10, 11, 17, 19, 20)
LARGER_OF_THREADS = (102, 103, 105, 107, 110, 111, 113, 115, 120, 121, 122, 124, 126, 130, 132, 134)


@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize("seed", OF_TASKS)
def test_random_programs_come_to_the_same_ends(seed: int) -> None:
    """Tasks, groups, locks, queues, timeouts, generators: nothing that they do is overlooked."""
    names: dict[str, Any] = {}
    exec(random_program(f"states {seed}"), names)
    assert_same_ends(names["program"], SMALL_EXECUTIONS)


@pytest.mark.usefixtures("every_meeting_audited")
@pytest.mark.parametrize(
    "seed",
    [*OF_THREADS, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in LARGER_OF_THREADS)],
)
def test_random_threads_come_to_the_same_ends(seed: int) -> None:
    """Locks, events, generators, `with` and `except`: nothing that a thread does is overlooked."""
    names: dict[str, Any] = {}
    exec(random_threads(seed), names)
    assert_same_ends(names["program"], SMALL_EXECUTIONS if seed < 100 else LARGE_EXECUTIONS)


def explored(program: Program) -> tuple[Any, StateMatching]:
    scheduler = StateMatching()
    return explore(program, strategy=scheduler, max_executions=5000), scheduler


@pytest.mark.thorough
def test_independent_steps_are_a_grid() -> None:
    """Two tasks of n steps have (n + 1)² states between them, not as many as they have orders."""
    steps = 4

    async def program(world: World) -> None:
        async def work(name: str) -> None:
            for step in range(steps):
                await world.outside(f"{name}{step}", latest=0.0)

        await asyncio.gather(work("a"), work("b"))

    report, scheduler = explored(program)
    assert report.verdict == Verdict.PROVED
    plain = explore(program, strategy="depth-first", max_executions=5000)
    assert report.executions < plain.executions / 4
    assert scheduler.opaque == set()


def test_what_a_loop_has_left_is_a_part_of_the_state() -> None:
    """The position of an iterator on the value stack of a frame tells states apart."""

    async def program(world: World) -> None:
        log: list[str] = []

        async def work(name: str) -> None:
            for _ in (1, 2, 3):
                await world.outside(name)
            log.append(name)

        await asyncio.gather(work("a"), work("b"))
        world.check(log[0] == "a", "a is first")

    report, _ = explored(program)
    assert report.verdict == Verdict.REFUTED


def test_which_of_two_names_is_bound_is_a_part_of_the_state() -> None:
    """Frames with the same values in other variables are other states."""

    async def program(world: World) -> None:
        came: list[str] = []

        async def comes(name: str) -> None:
            await world.outside(name, latest=0.0)
            came.append(name)

        both = asyncio.gather(comes("a"), comes("b"))
        while not came:  # noqa: ASYNC110 - each turn is a poll
            await asyncio.sleep(0)
        if came.pop() == "a":
            first = 1
        else:
            second = 1
        await both
        came.clear()
        await world.outside("end", latest=0.0)
        world.check("second" not in locals(), "a is first")
        del first

    report, _ = explored(program)
    assert report.verdict == Verdict.REFUTED


def test_what_a_global_hides_is_found_by_the_audit() -> None:
    """A module's global is not read; that it decides comes out where states are met again."""

    report, _ = explored(hides_in_a_global)
    assert report.verdict == Verdict.ERROR
    assert "two states were taken for one" in report.reason


def test_an_object_written_in_c_is_never_taken_for_another() -> None:
    """What cannot be read costs executions, and no verdict; the type is named."""

    async def program(world: World) -> None:
        random = Random(1)

        async def work(name: str) -> None:
            await world.outside(name, latest=0.0)
            if random.random() < 0.5 and name == "b":
                world.reached("b drew the lower")

        await asyncio.gather(work("a"), work("b"))

    report, scheduler = explored(program)
    plain = explore(program, strategy="depth-first", max_executions=5000)
    assert report.verdict == Verdict.PROVED
    assert report.executions == plain.executions
    assert report.labels == plain.labels
    assert scheduler.opaque == {"random.Random"}


def test_a_class_without_a_hash_makes_a_state_unique() -> None:
    """What a metaclass says of it is nobody's error: such states are taken for no other."""

    class Unhashed(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            return cls is other

    class Held(metaclass=Unhashed):
        pass

    async def program(world: World) -> None:
        held = Held()
        await asyncio.gather(*(world.outside(f"event {number}", latest=1) for number in range(2)))
        world.check(type(held) is Held, "it is held")

    scheduler = StateMatching()
    report = explore(program, strategy=scheduler)
    assert report.verdict == "proved", report.text
    assert any("Held, whose class has no hash" in each for each in scheduler.opaque)


@pytest.mark.skipif(sys.version_info >= UNREAD_FROM, reason="no stack of a thread is read there")
def test_states_with_workers_are_met_again() -> None:
    """Two threads that take one lock: their frames are read, and most orders lead to few states."""

    async def program(world: World) -> None:
        lock = threading.Lock()

        def takes() -> None:
            with lock:
                pass

        await asyncio.gather(asyncio.to_thread(takes), world.outside("a", latest=0.0))

    report, scheduler = explored(program)
    plain = explore(program, strategy="depth-first", max_executions=5000)
    assert report.verdict == plain.verdict == Verdict.PROVED
    assert scheduler.opaque == set()
    assert report.executions < plain.executions


@pytest.mark.parametrize(
    "calls",
    [
        sorted,
        pytest.param(max, marks=pytest.mark.thorough),
        pytest.param(lambda each, key: list(map(key, each)), marks=pytest.mark.thorough),
    ],
)
def test_a_thread_that_c_has_called_makes_a_state_unique(calls: Any) -> None:
    """What `sorted` has seen so far lies in C, and no reader finds it there."""

    async def program(world: World) -> None:
        lock = threading.Lock()

        def key(each: int) -> int:
            with lock:
                return each

        job = asyncio.to_thread(calls, (2, 1), key=key)
        world.reached(str((await asyncio.gather(job, world.outside("a", latest=0.0)))[0]))

    report, scheduler = explored(program)
    assert report.verdict == Verdict.PROVED
    assert report.labels == explore(program, strategy="depth-first", max_executions=5000).labels
    assert any(each.startswith("a worker thread") for each in scheduler.opaque)


def test_a_partial_that_hides_what_it_calls_makes_a_state_unique() -> None:
    """For the time of the call CPython puts its argument where it lay itself."""

    async def program(world: World) -> None:
        lock = threading.Lock()

        def both(one: int, other: int) -> int:
            with lock:
                return one + other

        def thread() -> int:
            reduces = functools.partial(functools.reduce, both)
            return reduces((1, 2, 3))

        await asyncio.gather(asyncio.to_thread(thread), world.outside("a", latest=0.0))

    report, scheduler = explored(program)
    assert report.verdict == Verdict.PROVED
    assert any(each.startswith("a worker thread") for each in scheduler.opaque)


class Member:
    """Hashes by its address."""


def test_what_has_another_address_in_each_execution_is_never_taken_for_another() -> None:
    """A set in the order of addresses, also of classes, or an object() that an execution makes."""

    async def has_a_set(world: World) -> None:
        members = {Member(), Member()}
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "abc"))
        world.check(len(members) == 2, "both are there")

    async def has_a_set_of_classes(world: World) -> None:
        classes = {type(f"<locals>.{name}", (), {}) for name in "ab"}
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "abc"))
        world.check(len(classes) == 2, "both are there")

    async def makes_an_object(world: World) -> None:
        mark = object()
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "abc"))
        world.check(mark is not None, "it is there")

    for program, named in (
        (has_a_set, "a set of Member, which hash by address"),
        (has_a_set_of_classes, "a set of type, which hash by address"),
        (makes_an_object, "an object() made by the execution"),
    ):
        report, scheduler = explored(program)
        assert report.verdict == Verdict.PROVED, report.text
        plain = explore(program, strategy="depth-first", max_executions=5000)
        assert report.executions == plain.executions
        assert scheduler.met_again == 0
        assert any(each.startswith(named) for each in scheduler.opaque)


def test_one_member_lies_anywhere() -> None:
    """Of a set with one that hashes by address the slot hangs on no choice, so it is left out.

    It was another in each run, so that no state of a pool with one connection was met again.
    """
    members = [Member() for _ in range(40)]
    assert len({layout_of_set({each}) for each in members}) > 1
    assert len({layout_around_one({each}) for each in members}) == 1
    for each in members:
        grown = {each, 1, 2, 3, 4, 5, 6}
        grown -= {1, 2, 3, 4, 5, 6}
        # Others were there, so that slots count.
        assert layout_around_one(grown) == layout_of_set(grown)


def test_a_pool_of_one_object_is_met_again() -> None:
    """Whatever it holds it by: itself, or a tuple of parts."""

    async def program(world: World) -> None:
        pool: set[object] = {(Member(), 1)}
        waits = {Member()}
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "abc"))
        world.check(len(pool) == len(waits) == 1, "one is there")

    report, scheduler = explored(program)
    assert report.verdict == Verdict.PROVED, report.text
    assert scheduler.met_again and not scheduler.opaque


def a_bank(within: bool) -> Program:
    """Two accounts of a class that the program makes, or the module has; the same otherwise."""

    async def program(world: World) -> None:
        account = made_account() if within else Account

        one, other = account(10), account(20)

        async def pays(number: int) -> None:
            await world.outside(f"payment {number} comes", latest=0.0)
            one.pay(number, other)
            await world.outside(f"receipt {number} comes", latest=0.0)

        await asyncio.gather(*(pays(number) for number in (1, 2)))
        world.check((one.left, other.left) == (7, 23), "nothing is lost")

    return program


def made_account() -> Any:
    class Base:
        __slots__ = ("_left",)

        def __init__(self, left: int) -> None:
            self._left = left

    @dataclasses.dataclass
    class Note:
        number: int

    class Made(Base):
        rate = 1

        @property
        def left(self) -> int:
            return self._left

        @classmethod
        def noted(cls, number: int) -> Note:
            return Note(number * cls.rate)

        def pay(self, number: int, other: Made) -> None:
            note = self.noted(number)
            self._left -= note.number
            other._left += note.number

    return Made


def test_a_class_that_the_program_makes_is_read() -> None:
    """States meet as they do where the class is the module's; what it holds counts, too."""
    report, scheduler = explored(a_bank(within=True))
    assert report.verdict == Verdict.PROVED, report.text
    assert scheduler.opaque == set()
    outside, _ = explored(a_bank(within=False))
    plain = explore(a_bank(within=True), strategy="depth-first")
    assert report.executions == outside.executions < plain.executions


def test_classes_that_differ_in_what_they_hold_are_told_apart() -> None:
    """Two classes of one name, whose method returns what the last event has chosen."""

    async def program(world: World) -> None:
        kept: list[Any] = []

        async def makes(number: int) -> None:
            await world.outside(f"{number} comes", latest=0.0)

            class Made:
                def value(self) -> int:
                    return number

            kept[:] = [Made()]

        await asyncio.gather(makes(1), makes(2))
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "cd"))
        world.check(kept[0].value() == 2, "2 is the last")

    report, scheduler = explored(program)
    assert report.verdict == Verdict.REFUTED
    assert scheduler.opaque == set()


# As the program of `a_bank` makes it.
Account = made_account()

MARK, OTHER = object(), object()


def test_constants_of_modules_are_told_apart() -> None:
    """Two marks of a module, and two classes, are two states where nothing else differs."""

    async def program(world: World) -> None:
        kept: list[object] = []

        async def keeps(name: str, what: object) -> None:
            await world.outside(name, latest=0.0)
            kept[:] = [what]

        await asyncio.gather(keeps("a", MARK), keeps("b", OTHER))
        # Nothing of the order is left but what was kept last.
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "cd"))
        world.check(kept == [OTHER], "b is the last")

    report, scheduler = explored(program)
    assert report.verdict == Verdict.REFUTED
    assert scheduler.opaque == set()


def test_many_polls_without_a_choice_are_counted_as_well() -> None:
    """Also where nothing was to be chosen in them, so that no state was looked up."""

    async def program(world: World) -> None:
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "ab"))
        for _ in range(150):
            await asyncio.sleep(0)

    report, scheduler = explored(program)
    assert report.verdict == Verdict.PROVED
    assert scheduler._with_spins


def test_many_polls_without_rest_make_the_number_of_polls_a_part_of_the_state() -> None:
    """Where `spin_max` may have a say, the search begins anew and counts the polls."""

    async def program(world: World) -> None:
        async def spins() -> None:
            for _ in range(150):
                await asyncio.sleep(0)

        await asyncio.gather(spins(), world.outside("a", latest=0.0))

    report, scheduler = explored(program)
    assert report.verdict == Verdict.PROVED
    assert scheduler._with_spins
