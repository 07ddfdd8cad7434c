"""The server inside the simulator: verdicts, schedules, determinism, and the bounded search."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from registry import StreamRegistry
from sim import Report, World, explore, outcomes
from sim.bench.checking.check import check
from sim.bench.checking.jobs import Result
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.scenarios.server_level import SERVER_SCENARIOS, ServerScenario
from sim.bench.subjects.mutants.base import Break
from sim.bench.subjects.mutants.server import KILLED
from sim.counted import counted
from sim.kernel.errors import ScheduleDoesNotFit
from sim.kernel.execution import Program
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import ChoicePoint, Schedule, departures_of
from sim.replay import replay as replay_text
from sim.schedulers import (
    DepartureBounded,
    DepthFirst,
    Following,
    RandomFirst,
    RandomWalk,
    Replay,
    Scheduler,
)
from tests.executed import executed
from tests.limits import AMPLE_S
from tests.sim.fresh_processes import printed_in_fresh_processes

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
SCENARIOS = {scenario.name: scenario for scenario in SERVER_SCENARIOS}


@cache
def checked(registry: str, scenario: str) -> Result:
    verdict = check(level="server", scenario=scenario, registry=registry, budget_s=AMPLE_S)
    (result,) = verdict.results
    assert verdict.verdict == result.report.verdict
    return result


# ---- verdicts -------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["hung_upstream.async", "silence.async", "slot_leaks.async"])
def test_production_is_proved(scenario: str) -> None:
    """Every schedule within the bound keeps every promise, and every label was reached."""
    report = checked("production", scenario).report
    assert report.verdict == "proved", report.text
    assert set(SCENARIOS[scenario].definition.labels) <= report.labels
    assert report.counterexample is None
    assert report.executions > 10


@pytest.mark.thorough
def test_a_proof_says_how_far_it_goes() -> None:
    """Every schedule, every one by matching states, or the number of departures."""
    whole = checked("production", "silence.async").report
    assert whole.complete == 1.0
    assert whole.reason.startswith("every schedule, within lateness_s=")
    matched = checked("production", "hung_upstream.async").report
    assert matched.complete == 1.0
    assert matched.claim == "every schedule, states matched"
    assert matched.reason.startswith("every schedule, states matched, within lateness_s=")
    program = SCENARIOS["unreachable.thread"].program_for(StreamRegistry)
    with silenced():
        bounded = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert bounded.complete is None
    assert bounded.covers == "every schedule with up to 1 departure"
    assert bounded.reason.startswith(f"{bounded.claim}, within lateness_s=")


def test_a_label_that_is_never_reached_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that does not reach what it is named for is inconclusive, and says why."""
    known = SCENARIOS["silence.async"]
    demanding = replace(
        known.definition, labels=(*known.definition.labels, "a label of another story")
    )
    scenario = ServerScenario(demanding, known.client)
    monkeypatch.setitem(SCENARIOS_BY_LEVEL, "server", (scenario,))
    verdict = check(
        level="server", scenario="silence.async", registry="production", budget_s=AMPLE_S
    )
    assert verdict.verdict == "inconclusive"
    assert "labels never reached: a label of another story" in verdict.results[0].report.reason


@pytest.mark.parametrize("registry", ["original", "quick_fix"])
def test_the_published_registries_are_refuted_on_the_blocked_thread(registry: str) -> None:
    """A cancel leaves the thread in its read: two upstream calls of one session, side by side."""
    report = checked(registry, "hung_upstream.thread").report
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property.startswith("S3 no_silent_overlap")


def test_the_quick_fix_says_that_the_stream_has_finished_cleanly() -> None:
    """Its log claims so before the overlap, and without any departure: it happens each time."""
    counterexample = checked("quick_fix", "hung_upstream.thread").report.counterexample
    assert counterexample is not None
    text = counterexample.text
    claim = text.index("prev_stream_finished_cleanly session=key1/s trace=t1")
    assert claim < text.index("VIOLATED")
    assert "prev_stream_timeout_on_cancel" not in text.partition("what happened")[2]
    assert Schedule.parse(counterexample.schedule).departures == ()


def test_the_published_registries_are_not_asked_for_what_they_never_promised() -> None:
    """Where a scenario judges states and gates, which they have not, they are not played."""
    with pytest.raises(ValueError, match="is not applicable to quick_fix"):
        check(level="server", scenario="second_prompt.thread", registry="quick_fix")


# ---- mutants ----------------------------------------------------------------------------------


# Each mutant falls within these: the one that takes longest, at the 34th execution.
EXECUTIONS_MAX = 60


def explored(scenario: str) -> Report:
    """As `check` does, but for the budget: this many executions, whatever the machine."""
    bounded = RandomFirst(DepartureBounded(1), random_executions=20)
    strategy = SCENARIOS[scenario].strategy or bounded
    program = SCENARIOS[scenario].program_for(StreamRegistry)
    with silenced():
        return explore(program, strategy=strategy, max_executions=EXECUTIONS_MAX)


# `test_regressions.py` refutes these by a schedule that is kept: no search is needed for it.
KEPT = {path.stem for path in (ROOT / "tests/schedules").glob("*.toml")}
# Those of which an execution takes long.
LONG = {
    "chunks_are_read_without_bound.full_buffers.thread",
    "landed_chunks_wake_nobody.second_prompt.thread",
    "silence_after_a_chunk_is_not_counted.silence.thread",
    "silence_has_no_limit.silence.thread",
    "leaving_is_not_heard.queued_job.thread",
    "shutdown_closes_nothing.stuck_lookup.thread",
    "stream_has_no_limit.endless.async",
    "thread_is_not_counted.stuck_lookup.thread",
}


def mutants_to_find() -> list[Any]:
    return [
        pytest.param(
            *each,
            id=f"{each[0].__name__}-{each[1]}",
            marks=[pytest.mark.thorough] * (f"{each[0].__name__}.{each[1]}" in KEPT | LONG),
        )
        for each in KILLED
    ]


@pytest.mark.parametrize(("mutant", "scenario", "violated"), mutants_to_find())
def test_a_mutant_is_refuted(
    mutant: Break, scenario: str, violated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One broken line of the server or its clients, and the property that it violates."""
    mutant(monkeypatch)
    report = explored(scenario)
    assert report.counterexample is not None, report.text
    assert report.counterexample.property.startswith(violated), report.text


@pytest.mark.parametrize("scenario", sorted({scenario for _, scenario, _ in KILLED})[:2])
def test_unbroken_the_same_scenario_is_not_refuted(scenario: str) -> None:
    """What refutes the mutants is the broken line. `check` proves all of these."""
    assert explored(scenario).counterexample is None


# ---- schedules ------------------------------------------------------------------------------


def test_a_schedule_brings_the_violation_back() -> None:
    """The text of a counterexample is all that its replay needs."""
    found = checked("quick_fix", "hung_upstream.thread").report.counterexample
    assert found is not None
    again = replay_text(found.schedule)
    assert again is not None
    assert (again.property, again.schedule) == (found.property, found.schedule)
    assert again.text == found.text


def test_a_schedule_of_other_code_is_refused() -> None:
    """Its digest differs, so nobody knows what it would show."""
    found = checked("quick_fix", "hung_upstream.thread").report.counterexample
    assert found is not None
    schedule = Schedule.parse(found.schedule)
    with pytest.raises(ScheduleDoesNotFit, match="0badc0de"):
        replay_text(str(replace(schedule, digest="0badc0de")))


# ---- determinism ----------------------------------------------------------------------------

TRACED = ["second_prompt.async", "hung_upstream.thread"]


def run_traced(scenario: str, scheduler: Scheduler) -> Outcome:
    program = SCENARIOS[scenario].program_for(StreamRegistry)
    with silenced():
        outcome = executed(program, scheduler, traced=True)
    assert (outcome.error, outcome.violation) == (None, None)
    return outcome


def walked(scenario: str, seed: int) -> Outcome:
    return run_traced(scenario, RandomWalk(seed))


def some_hashes() -> str:
    return " ".join(walked(scenario, seed).trace_hash for scenario in TRACED for seed in range(3))


@pytest.mark.parametrize("replays", [8, pytest.param(50, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("scenario", TRACED)
def test_the_same_schedule_gives_the_same_trace(scenario: str, replays: int) -> None:
    """All replays of a random schedule run the same callbacks at the same virtual times."""
    first = walked(scenario, seed=7)
    departures = departures_of(first.choices)
    assert departures
    hashes = {run_traced(scenario, Replay(departures)).trace_hash for _ in range(replays)}
    assert hashes == {first.trace_hash}


def test_other_schedules_give_other_traces() -> None:
    """What was chosen shows in the trace."""
    assert len(set(some_hashes().split())) > 5


@pytest.mark.socket
@pytest.mark.thorough
def test_the_same_schedule_gives_the_same_trace_in_another_process() -> None:
    """Fresh processes, with other hash seeds, run the same callbacks."""
    script = "from tests.sim.test_server_level import some_hashes; print(some_hashes())"
    assert printed_in_fresh_processes(script) == {some_hashes()}


# ---- the bounded search ---------------------------------------------------------------------


class Noting(Following):
    """Another scheduler, and what it has chosen in each execution, with the departures so far."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        # For each execution: what the scheduler calls itself, its choices, its departures.
        self.executions: list[tuple[str, list[int], int]] = []

    def next_execution(self) -> bool:
        if not super().next_execution():
            return False
        self.executions.append((self.name, [], 0))
        return True

    def choose(self, point: ChoicePoint) -> int:
        option = super().choose(point)
        name, choices, departures = self.executions[-1]
        self.executions[-1] = name, [*choices, option], departures + point.costs[option]
        return option


def executions_of(program: Program, scheduler: Scheduler) -> list[tuple[str, tuple[int, ...], int]]:
    noting = Noting(scheduler)
    for outcome in outcomes(program, noting):
        assert (outcome.error, outcome.violation) == (None, None)
    return [(name, tuple(choices), cost) for name, choices, cost in noting.executions]


async def three_arrivals(world: World) -> None:
    """Three outside events, one of them with a deadline to meet."""

    async def client(name: str) -> None:
        await world.outside(name, latest=0.0)
        await asyncio.sleep(0)

    await asyncio.gather(*map(client, "abc"))


async def an_event_and_a_deadline(world: World) -> None:
    async def event() -> None:
        await world.outside("event", latest=1.0)

    async def timer() -> None:
        await asyncio.sleep(0.5)
        await asyncio.sleep(0)

    await asyncio.gather(event(), timer())


async def a_choice_and_a_thread(world: World) -> None:
    if world.choose("how", ("well", "badly")) == "badly":
        await asyncio.sleep(0)
    await asyncio.to_thread(threading.Lock().acquire)


SMALL = [three_arrivals, an_event_and_a_deadline, a_choice_and_a_thread]


@pytest.mark.parametrize("bound", [0, 1, 2])
@pytest.mark.parametrize("program", SMALL)
def test_each_execution_is_seen_once_for_each_bound(program: Program, bound: int) -> None:
    """Those with up to a number of departures, no other, compared with all that there are."""
    every = executions_of(program, DepthFirst())
    assert len({choices for _, choices, _ in every}) == len(every) > 5
    seen: dict[str, Counter[tuple[int, ...]]] = {}
    for name, choices, _ in executions_of(program, DepartureBounded(bound)):
        seen.setdefault(name, Counter())[choices] += 1
    for smaller in range(bound + 1):
        expected = Counter(choices for _, choices, cost in every if cost <= smaller)
        assert seen.pop(f"up to {counted(smaller, 'departure')}", None) == expected
        if len(expected) == len(every):
            break
    assert not seen


@pytest.mark.parametrize("program", SMALL)
def test_without_a_bound_everything_is_seen(program: Program) -> None:
    """A bound that no execution reaches is a complete search, and says so."""
    every = executions_of(program, DepthFirst())
    scheduler = DepartureBounded(100)
    seen = executions_of(program, scheduler)
    last = [choices for name, choices, _ in seen if name == seen[-1][0]]
    assert Counter(last) == Counter(choices for _, choices, _ in every)
    assert (scheduler.saw_all, scheduler.complete) == (True, 1.0)
    assert scheduler.covers == "every schedule"
    assert scheduler.bound_finished == max(cost for _, _, cost in every)


def test_kept_for_several_polls_is_one_departure() -> None:
    """With one departure, an event lands at any of the polls that it can be kept for."""

    async def program(world: World) -> None:
        event = asyncio.ensure_future(world.outside("event", latest=0.0))
        await asyncio.sleep(0)
        for poll in range(6):
            if event.done():
                world.reached(f"at poll {poll}")
                break
            await asyncio.sleep(0)
        await event

    strategy = DepartureBounded(1)
    report = explore(program, strategy=strategy, max_executions=1000)
    assert report.verdict == "proved"
    # It is seen three polls after it landed: its callback, the task it wakes, and who awaits that.
    assert report.labels == {f"at poll {poll}" for poll in range(3, 6)}
    assert strategy.saw_all


def test_two_events_kept_in_turn_are_two_departures() -> None:
    """Each of two events, one after the other, is kept: that takes the second departure."""

    async def program(world: World) -> None:
        late = 0
        for name in ("first", "second"):
            event = asyncio.ensure_future(world.outside(name, latest=0.0))
            for _ in range(4):
                await asyncio.sleep(0)
            late += not event.done()
            await event
        world.reached(f"{late} late")

    one = explore(program, strategy=DepartureBounded(1), max_executions=1000)
    two = explore(program, strategy=DepartureBounded(2), max_executions=1000)
    assert one.labels == {"0 late", "1 late"}
    assert two.labels == {"0 late", "1 late", "2 late"}


def test_a_proof_claims_its_bound_and_no_more() -> None:
    """What needs two departures is not denied by a proof with up to one."""

    async def program(world: World) -> None:
        first = world.choose("first", (0, 1))
        second = world.choose("second", (0, 1))
        world.check(first + second < 2, "not both")

    one = explore(program, strategy=DepartureBounded(1))
    assert (one.verdict, one.complete, one.executions) == ("proved", None, 1 + 3)
    assert one.reason.startswith("every schedule with up to 1 departure")
    two = explore(program, strategy=DepartureBounded(2))
    assert (two.verdict, two.executions) == ("refuted", 1 + 3 + 4)


def stopped_after(executions: int, strategy: DepartureBounded) -> tuple[str, str]:
    async def program(world: World) -> None:
        for _ in range(4):
            world.choose("this or that", (0, 1))

    report = explore(program, strategy=strategy, max_executions=executions)
    return report.verdict, report.reason


def test_a_search_that_is_stopped_claims_the_bound_it_has_finished() -> None:
    """Of four choices, 1 execution has no departure, 5 have up to one, and 11 up to two."""
    assert stopped_after(5, DepartureBounded(1))[0] == "inconclusive"
    assert stopped_after(6, DepartureBounded(1))[0] == "proved"
    verdict, reason = stopped_after(10, DepartureBounded(1, 3))
    assert verdict == "proved"
    assert reason.startswith("every schedule with up to 1 departure")
    verdict, reason = stopped_after(17, DepartureBounded(1, 3))
    assert verdict == "proved"
    assert reason.startswith("every schedule with up to 2 departures")
