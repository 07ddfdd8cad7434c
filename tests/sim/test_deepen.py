"""Growing stories: what is proved of each size, and that a size reaches what it is named for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from registry import StreamRegistry
from sim.bench.checking.check import check
from sim.bench.checking.deepen import SizeBound, deepen, largest_proved
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios.http_story import BOTH
from sim.bench.scenarios.server_level.sized import SizedServerScenario
from sim.bench.scenarios.sized import ALL_HUNG, Size, SizedScenario
from sim.bench.subjects.mutants import broken, mutant_named
from sim.cli import main
from sim.exploration.executing import Watch
from sim.exploration.parallel import Key
from sim.exploration.report import Report
from sim.exploration.search import explore
from sim.exploration.verdict import Stop, Verdict
from sim.kernel.world import World
from sim.replay import replay
from tests.limits import AMPLE_S

pytestmark = pytest.mark.once

AMPLY = ("--budget", str(AMPLE_S))


async def nothing_happens(world: World) -> None:
    """Has one schedule."""


@pytest.fixture(scope="module")
def one_schedule() -> Report:
    """The report of a program that has one schedule."""
    return explore(nothing_happens, max_executions=10)


def test_a_size_has_a_name_and_is_found_by_it() -> None:
    """The name of a size says all of it; other names are no sizes."""
    size = Size(2, 4, 1, 0, 1)
    assert size.name == "size-2s4r1c0l1h"
    assert Size.parse(size.name) == size
    assert Size.parse("second_prompt") is None
    assert str(size) == "2 sessions, 4 registers, 1 cancel, 0 leavers, 1 hang"


def test_a_size_that_is_none_is_refused() -> None:
    """More hangs than can happen, or no size at all: the error shows how one is written."""
    impossible = ("size-1s1r0c0l1h", "size-1s3r2c0l2h", "size-2s2r1c0l2h", "size-1s1r0c0l2h.async")
    for name in (*impossible, "size-2s1r0c0l0h", "second_prompt"):
        with pytest.raises(ValueError, match="size-1s4r2c0l1h"):
            deepen(size=name)


def test_production_is_proved_size_by_size() -> None:
    """Smaller stories come first, each is proved, and each reaches what it is named for."""
    results = deepen(budget_s=AMPLE_S, size="size-1s2r1c0l1h")
    assert [result.report.verdict for result in results] == [Verdict.PROVED]
    assert results[0].report.labels >= {
        "a stream was stopped by a newer one",
        "a stream was cancelled",
        "a stream was detached",
        "registers raced",
    }
    assert largest_proved(results) == [SizeBound(SizedScenario(Size(1, 2, 1, 0, 1)))]


@pytest.mark.parametrize("size", [Size(1, 1, 1, 0, 1), Size(1, 1, 0, 1, 1), Size(1, 2, 0, 0, 1)])
def test_a_stream_that_hangs_is_told_to_stop(size: Size) -> None:
    """By a stop, by a caller that leaves, by a newer prompt: the smallest size with each."""
    (result,) = deepen(size=size.name, budget_s=AMPLE_S)
    assert result.report.verdict == Verdict.PROVED
    assert ALL_HUNG in result.report.labels


@pytest.mark.parametrize("size", [Size(2, 2, 2, 0, 2), Size(2, 3, 1, 0, 2), Size(2, 3, 0, 1, 2)])
def test_two_sessions_may_hang(size: Size) -> None:
    """The label of both is required of a proof, so it has to be within reach."""
    story = SizedScenario(size)
    assert ALL_HUNG in story.labels_for(StreamRegistry)
    with silenced():
        report = explore(
            story.program_for(StreamRegistry),
            strategy="random",
            max_executions=500,
            watch=lambda findings, _: ALL_HUNG in findings.labels,
        )
    assert ALL_HUNG in report.labels


@pytest.mark.thorough
def test_states_need_a_part_of_the_executions_of_plain_search() -> None:
    """Both see every schedule; what is met again is not gone through again."""
    program = SizedScenario(Size(1, 2, 1)).program_for(StreamRegistry)
    with silenced():
        plain = explore(program, strategy="depth-first", max_executions=5000)
        states = explore(program, strategy="states", max_executions=5000)
    assert plain.verdict == states.verdict == Verdict.PROVED
    assert plain.labels == states.labels
    assert states.executions < 0.7 * plain.executions


@pytest.mark.thorough
def test_the_published_registries_fall_with_two_registers() -> None:
    """The smallest story that refutes one is found first, and its schedule replays."""
    for name, smallest in (("original", Size(1, 2)), ("quick_fix", Size(1, 2, hangs=1))):
        results = deepen(registry=name, budget_s=AMPLE_S)
        *smaller, last = results
        assert all(result.report.verdict == Verdict.PROVED for result in smaller)
        assert last.report.verdict == Verdict.REFUTED
        assert last.bound.scenario.size == smallest, last.report.text
        assert last.report.counterexample is not None
        assert main(["replay", last.report.counterexample.schedule]) == 1


def test_the_command_prints_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is that of check; JSON has all that was found."""
    assert main(["deepen", "--size", "size-1s2r0c0l0h", *AMPLY]) == 0
    printed = capsys.readouterr().out
    assert "every schedule was visited up to:" in printed
    assert "1 session, 2 registers, 0 cancels, 0 leavers, 0 hangs" in printed
    assert main(["deepen", "--size", "size-1s2r0c0l0h", "--json", *AMPLY]) == 0
    assert json.loads(capsys.readouterr().out)["largest_proved"] == [
        "1 session, 2 registers, 0 cancels, 0 leavers, 0 hangs"
    ]
    assert main(["deepen", "--size", "size-9"]) == 3
    assert main(["deepen", "--budget", "0.000001"]) == 2
    assert "every schedule was visited up to:\n  none" in capsys.readouterr().out


def test_what_the_time_does_not_suffice_for_is_not_proved(
    one_schedule: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size that is cut off is inconclusive, and none that dominates it is tried."""
    played = []

    def explored(key: Key, budget_s: float, watch: Watch) -> Report:
        size = SizeBound.of_key(key).scenario.size
        played.append(size)
        report = one_schedule
        if size.cancels:
            report = replace(report, verdict=Verdict.INCONCLUSIVE, stopped=Stop.OUT_OF_BUDGET)
        return report

    monkeypatch.setattr("sim.bench.checking.deepen._explored", explored)
    results = deepen(budget_s=AMPLE_S)
    assert [size for size in played if size.cancels] == [Size(1, 1, 1)]
    assert largest_proved(results) == [SizeBound(SizedScenario(Size(2, 5, 0, 2, 2)))]


# ---- at server level -------------------------------------------------------------------------


def test_with_the_async_client_every_schedule_of_a_size_is_seen() -> None:
    """And each label of the size is reached."""
    results = deepen(size="size-1s1r1c0l0h.async", budget_s=AMPLE_S)
    assert {each.report.verdict for each in results} == {Verdict.PROVED}
    assert results[-1].report.labels >= {"a prompt was cancelled", "content was sent"}
    story = SizedServerScenario(Size(1, 1, 1), "async")
    assert largest_proved(results) == [SizeBound(story)]


def test_where_every_schedule_is_too_many_departures_are_counted(
    one_schedule: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One, then two, and so on, also where one does not come to every situation.

    A bound that is too large ends it, and the last one stands.
    """
    played = []

    def explored(key: Key, budget_s: float, watch: Watch) -> Report:
        bound = SizeBound.of_key(key)
        played.append(bound.departures)
        # One of several schedules, else there would be no need of more departures.
        report = replace(one_schedule, complete=0.5)
        if bound.departures in (None, 3):
            report = replace(report, verdict=Verdict.INCONCLUSIVE, stopped=Stop.OUT_OF_BUDGET)
        if bound.departures == 1:
            report = replace(report, verdict=Verdict.INCONCLUSIVE, labels_missing=("one",))
        return report

    monkeypatch.setattr("sim.bench.checking.deepen._explored", explored)
    results = deepen(budget_s=AMPLE_S, size="size-1s4r2c0l1h")
    assert played == [None, 1, 2, 3]
    assert largest_proved(results) == [SizeBound(SizedScenario(Size(1, 4, 2, 0, 1)), 2)]


@pytest.mark.thorough
def test_a_bound_is_proved_when_all_of_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the smaller bounds are finished and this one is not, nothing is said of it."""

    def in_few_executions(*args: Any, budget_s: float, **kwargs: Any) -> Report:
        report = explore(*args, max_executions=60, **kwargs)
        is_cut_off = report.reason.startswith("the limit of 60 executions")
        return replace(report, stopped=Stop.OUT_OF_BUDGET) if is_cut_off else report

    monkeypatch.setattr("sim.bench.checking.deepen.explore", in_few_executions)
    results = deepen(size="size-1s2r0c0l0h.async", budget_s=AMPLE_S)
    verdicts = {each.bound.departures: each.report.verdict for each in results}
    assert verdicts == {None: Verdict.INCONCLUSIVE, 1: Verdict.PROVED, 2: Verdict.INCONCLUSIVE}


@pytest.mark.thorough
def test_with_threads_it_is_up_to_so_many_departures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen of one client says nothing about the other."""
    # With more departures there are more executions than a test should take.
    monkeypatch.setattr("sim.bench.checking.deepen.DEPARTURES_MAX", 1)
    story, other = (SizedServerScenario(Size(1, 1), client) for client in BOTH[::-1])
    results = deepen(size=story.name, budget_s=AMPLE_S)
    assert results[0].bound == SizeBound(story, 1)
    assert results[0].report.verdict == Verdict.PROVED
    assert not results[0].bound.dominates(SizeBound(other, 1))


def test_what_a_bound_dominates() -> None:
    """Smaller sizes, with as many departures or fewer; every schedule dominates any number."""
    large, small = (SizedServerScenario(Size(1, count), "async") for count in (2, 1))
    assert SizeBound(large, 2).dominates(SizeBound(small, 1))
    assert SizeBound(large).dominates(SizeBound(small, 3))
    assert not SizeBound(large, 1).dominates(SizeBound(small, 2))
    assert not SizeBound(large, 3).dominates(SizeBound(small))
    assert not SizeBound(small).dominates(SizeBound(large, 1))


@pytest.mark.thorough
def test_a_sized_story_is_one_of_checks_scenarios() -> None:
    """Its counterexamples are replayed by their name, so that it has to be found by it."""
    with broken(mutant_named("gate_is_not_asked")):
        (result,) = check(
            scenario="size-1s2r0c0l0h.async", registry="production", budget_s=AMPLE_S
        ).results
        assert result.report.verdict == Verdict.REFUTED
        assert result.report.counterexample is not None
        assert replay(result.report.counterexample.schedule) is not None


def test_a_level_that_there_is_not_is_refused() -> None:
    """The error names those that there are."""
    with pytest.raises(ValueError, match="there is registry, server"):
        deepen(level="both")


def test_a_size_says_how_many_registers_do_not_interrupt() -> None:
    """The name of a size has them only where there are some, and is read back as it was written."""
    for name in ("size-1s3r0c0l0h", "size-1s3r0c1l0h1e1x"):
        size = Size.parse(name)
        assert size is not None
        assert size.name == name
    assert Size.parse("size-1s3r0c1l0h1e1x") == Size(1, 3, 0, 1, 0, 1, 1)
    assert not SizedScenario(Size(1, 1, enqueues=1)).is_possible


def test_every_schedule_of_registers_that_enqueue_is_seen() -> None:
    """A small story with strategies is proved, and has taken the rows of the table for them."""
    (proved,) = largest_proved(deepen(size="size-1s2r0c0l0h1e0x", budget_s=AMPLE_S))
    assert proved.departures is None
