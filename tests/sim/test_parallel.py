"""One tree in several processes comes to what one process comes to; progress, and Ctrl-C."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from sim.bench.checking import check as check_module
from sim.bench.checking.agenda import players
from sim.bench.checking.check import check
from sim.bench.checking.jobs import Job
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.subjects.mutants import broken, mutant_named
from sim.cli import main
from sim.executors.base import Answer, Task
from sim.executors.processes import processes
from sim.exploration import parallel
from sim.exploration.parallel import PartDone, Team, Work
from sim.exploration.progress import Progress, search_words
from sim.exploration.report import Findings, Report
from sim.exploration.search import search
from sim.exploration.subject import Problem, Subject
from sim.exploration.verdict import Stop
from sim.kernel.guards import guarded
from sim.kernel.world import World
from sim.schedulers import DepartureBounded, DepthFirst, Divisible, Part, Scheduler
from tests.limits import AMPLE_S, HANGS_S
from tests.sim.trees import SEARCHES, TREES, Tree
from tests.sim.trees import Path as ChoicePath

ROOT = Path(__file__).parents[2]


# ---- the division of a tree, without processes ------------------------------------------------


def seen_by(tree: Tree, part: Part, slices: list[int]) -> list[ChoicePath]:
    """What a part sees in slices; each time what is left of it is divided, and put in order."""
    if not slices:
        return rest(tree, part)
    seen = []
    for _ in range(slices[0]):
        if not part.next_execution():
            return seen
        seen.append(tree.execute(part))
    if not part.next_execution():
        return seen
    part.resume()
    later = part.split()
    seen += seen_by(tree, part, slices[1:])
    if later is not None:
        seen += seen_by(tree, later, slices[1:])
        part.was_cut = part.was_cut or later.was_cut
    return seen


def rest(tree: Tree, scheduler: Scheduler) -> list[ChoicePath]:
    seen = []
    while scheduler.next_execution():
        seen.append(tree.execute(scheduler))
    return seen


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("tree", TREES, ids=[tree.name for tree in TREES])
@pytest.mark.parametrize(
    "slices",
    [
        [],
        pytest.param([1, 1, 1, 1, 1], marks=pytest.mark.thorough),
        pytest.param([7, 1, 3], marks=pytest.mark.thorough),
        [0, 5, 0, 2, 9],
    ],
)
def test_parts_see_what_the_whole_sees(tree: Tree, search: str, slices: list[int]) -> None:
    """However a tree is divided, its parts in their order are the search in its order."""
    make = SEARCHES[search]
    alone, divided = make(), make()
    assert isinstance(divided, DepthFirst | DepartureBounded)
    seen: list[ChoicePath] = []
    while (part := divided.begin_round()) is not None:
        seen += seen_by(tree, part, slices)
        divided.end_round(part.was_cut)
    assert seen == rest(tree, alone)
    assert divided.is_exhausted
    assert (divided.covers, divided.complete) == (alone.covers, alone.complete)


@pytest.mark.parametrize("tree", TREES, ids=[tree.name for tree in TREES])
def test_what_parts_have_not_seen_adds_up(tree: Tree) -> None:
    """The shares left of the parts are, together, what the search as a whole has not seen."""
    for executions in (0, 1, 5):
        alone = DepthFirst()
        for _ in range(executions):
            alone.next_execution()
            tree.execute(alone)
        assert alone.next_execution()
        unseen = 1.0 - (alone.complete or 0.0)
        assert alone.unseen == pytest.approx(unseen)
        later = alone.split()
        parts = [alone] if later is None else [alone, later]
        assert sum(part.unseen for part in parts) == pytest.approx(unseen)


# ---- slices -----------------------------------------------------------------------------------


def test_a_slice_begins_when_its_program_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first task of a process what comes before takes longer than the slice is."""
    now = 100.0
    until: list[float | None] = []

    def slow_problem(key: parallel.Key) -> Problem:
        nonlocal now
        now += 5
        return Problem(Subject.of(nothing))

    def noted(problem: Any, part: Any, deadline: float | None, *rest: object) -> Findings:
        until.append(deadline)
        return Findings()

    monkeypatch.setattr(parallel, "perf_counter", lambda: now)
    monkeypatch.setattr(parallel, "search", noted)
    work = Work(slow_problem, lambda *_: pytest.fail("it is not played whole"))
    for left_s in (60.0, 5.5):
        parallel._search_part(work, (), DepthFirst(), 1.0, left_s, lambda: False)
    assert until == [106.0, 110.5]


async def nothing(world: World) -> None: ...


def test_a_worker_imports_the_program_as_any_process_does() -> None:
    """What its module makes, as a local of threads, is no stand-in that executions have."""
    made: list[type] = []

    def imported(key: parallel.Key) -> Problem:
        made.append(threading.local)
        return Problem(Subject.of(nothing))

    work = Work(imported, lambda *_: pytest.fail("it is not played whole"))
    parallel._search_part(work, (), DepthFirst(), 1.0, AMPLE_S, lambda: False)
    parallel._conclude(work, (), Findings(), AMPLE_S, True, True, lambda: False)
    assert made == [threading.local] * 2


def test_slices_are_short_towards_the_end() -> None:
    """Else one worker has the last slice, and the others nothing, for half a second."""
    work = Work(lambda key: Problem(Subject.of(nothing)), lambda *_: pytest.fail("not whole"))
    search = parallel._Search(work, (), DepthFirst(), AMPLE_S, AMPLE_S)
    (piece,) = search._pieces
    search._round_s = 10.0
    slices = []
    while piece.part.next_execution():
        slices.append(search._last_slice_s(workers=2))
        TREES[0].execute(piece.part)
    assert slices[0] >= parallel.SLICE_MAX_S
    assert slices[-1] == parallel.SLICE_LAST_S
    assert slices[1:] == sorted(slices[1:], reverse=True)


# ---- in processes ----------------------------------------------------------------------------


def came_to(found: Any) -> list[dict[str, Any]]:
    results = [{**each, "seconds": 0} for each in found.as_json()["results"]]
    return sorted(results, key=lambda each: (each["registry"], each["scenario"]))


@pytest.mark.parametrize(
    "scenario",
    [pytest.param("caller_leaves_overtaken", marks=pytest.mark.thorough), "second_prompt"],
)
def test_two_jobs_come_to_what_one_comes_to(scenario: str) -> None:
    """Verdicts, counts, labels and counterexamples are the same, proved or refuted."""
    one, two = (
        check(level="registry", scenario=scenario, executor=processes(jobs), budget_s=AMPLE_S)
        for jobs in (1, 2)
    )
    assert came_to(one) == came_to(two)
    assert {each.report.verdict for each in one.results} == {"proved", "refuted"}


@pytest.mark.parametrize("registry", ["production", "quick_fix"])
@pytest.mark.thorough
def test_two_jobs_come_to_the_same_within_a_bound(registry: str) -> None:
    """As above, for the search bounded in departures and the random executions next to it."""
    (scenario,) = (
        each for each in SCENARIOS_BY_LEVEL["server"] if each.name == "second_prompt.async"
    )
    job = Job("server", registry, scenario, departures=1)
    # Else one process does it all, and the rest of the test compares it with itself.
    assert isinstance(job.strategy(), Divisible)
    found = []
    for jobs in (1, 2):
        with players(processes(jobs), Progress(None, 120)) as play_round:
            ((_, result),) = play_round([job], perf_counter() + AMPLE_S)
        found.append({**result.as_json(), "seconds": 0})
    assert found[0] == found[1]
    assert found[0]["executions"] > 10 or registry == "quick_fix"


def test_two_jobs_find_the_first_counterexample() -> None:
    """Also one that lies deep in the tree, behind parts that are searched at the same time."""
    # The workers are forks of this process, so that they are broken as well.
    with broken(mutant_named("withdrawn_by_name_and_not_by_identity")):
        one, two = (
            check(
                scenario="caller_leaves_overtaken",
                registry="production",
                executor=processes(jobs),
                budget_s=AMPLE_S,
            )
            for jobs in (1, 2)
        )
    assert one.verdict == "refuted"
    assert one.results[0].report.executions > 50
    assert came_to(one) == came_to(two)


class HoldsWhatIsBehind:
    """An executor that works in this process, and holds what is searched behind a failure.

    First a slice of one execution, then slices that see all.
    """

    workers = 3

    def __init__(self) -> None:
        self.slices = 0
        self.has_failed = False
        self.ready: list[Answer] = []
        self.held: list[Answer] = []

    def submit(self, number: int, task: Task) -> None:
        assert isinstance(task, partial)
        if task.func is not parallel._search_part:
            self.ready.append(Answer(number, task(lambda: False)))
            return
        result = self._search(task.args[2])
        (self.held if self.has_failed else self.ready).append(Answer(number, result))
        self.has_failed = self.has_failed or result.findings.is_final

    def answers(self, timeout_s: float) -> list[Answer]:
        ready, self.ready = self.ready, []
        return ready

    def cancel(self) -> None:
        raise AssertionError("nobody interrupts")

    def close(self) -> None:
        """Nothing is running."""

    def _search(self, part: Scheduler) -> PartDone:
        # What a worker is given is a copy.
        part = pickle.loads(pickle.dumps(part))
        self.slices += 1
        with guarded():
            limit = 1 if self.slices == 1 else None
            findings = search(problem_of_arrivals(()), part, None, limit, lambda *_: False)
        if limit is not None:
            findings.stopped = Stop.OUT_OF_BUDGET
        return PartDone(part, findings, 0.0)


async def one_order_is_wrong(world: World) -> None:
    """Three arrivals; it is the fifth schedule that has the wrong order."""
    order: list[int] = []

    async def arrive(number: int) -> None:
        await world.outside(f"arrival {number}")
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(arrive(number))
    world.check(order != [0, 2, 1], "the arrivals are not in the order 0, 2, 1")


def none_whole(*_: object) -> Report:
    raise AssertionError("the search can be divided")


def problem_of_arrivals(_: Any) -> Problem:
    return Problem(Subject(one_order_is_wrong, "arrivals"))


def test_a_part_behind_the_failure_may_come_back_late() -> None:
    """The search ends with its first failure; what else is running is thrown away."""
    executor = HoldsWhatIsBehind()
    team = Team(executor, Work(problem_of_arrivals, none_whole), show=lambda *_: False)
    reports = team.play([(("arrivals",), DepthFirst())], lambda _: 60.0)
    _, report = next(reports)
    assert (report.verdict, report.executions) == ("refuted", 5)
    executor.ready = executor.held
    assert len(executor.ready) == 1
    assert list(reports) == []


@pytest.mark.thorough
def test_each_scenario_has_a_result_however_small_the_budget() -> None:
    """What was not begun is inconclusive, and not left out."""
    one, two = (check(budget_s=0.2, executor=processes(jobs)) for jobs in (1, 2))
    assert one.verdict == two.verdict == "inconclusive"
    names = [
        sorted((each.registry, each.scenario) for each in found.results) for found in (one, two)
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 60


def test_two_jobs_say_how_far_they_came() -> None:
    """Out of budget, a divided search has seen a part of the tree, and may say how much is left."""
    named = {"scenario": "racing_registers", "registry": "production"}
    # As much as it takes to get anywhere: all of it takes minutes.
    for budget_s in (0.5, 2.0, 8.0, 32.0):
        (result,) = check(**named, budget_s=budget_s, executor=processes(2)).results
        report = result.report
        if report.executions > 10:
            break
    assert report.was_out_of_budget
    assert report.complete is not None
    assert 0 < report.complete < 1


# ---- progress --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    """Two lines of a search, a second apart, and the line taken away."""
    clock = iter((0.0, 1.0, 1.5, 2.0))
    scheduler = DepartureBounded(2)
    with Progress(stream, 60.0, every_s=1.0, clock=lambda: next(clock)) as progress:
        for executions in (100, 150, 200):
            findings = Findings(executions=executions, choice_points=12)
            progress.show(partial(search_words, "production a", 2.0, findings, scheduler))
    return stream.getvalue()


def test_progress_is_a_line_that_is_redrawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn over, and taken away before anything else is printed."""
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert {*re.findall(r"a: (\d+) executions", text)} == {"100", "200"}
    first, _, others = text.partition("100 executions")
    assert "\n" not in first + others.partition("200 executions")[0]
    assert text.endswith("\x1b[2K")


def test_progress_is_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says executions, rate, bound, depth and the budget that is left, and stays.

    Elsewhere is also a terminal that can redraw nothing.
    """
    plain = shown(io.StringIO())
    first, second = plain.splitlines()
    assert first == (
        "production a: 100 executions, 50/s, up to 0 departures, 12 choice points deep, "
        "at most 59 s more"
    )
    assert second.startswith("production a: 200 executions, 100/s")
    monkeypatch.setenv("TERM", "dumb")
    assert shown(Terminal()) == plain


def test_no_progress_without_a_stream() -> None:
    """As with --json; nothing is worked out, either."""
    asked: list[str] = []
    with Progress(None, every_s=0.0) as progress:
        progress.show(lambda: asked.append("words") or "words")
    assert asked == []


def onestream(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sim.cli", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.socket
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.thorough
def test_ctrl_c_gives_the_inconclusive_report(jobs: str) -> None:
    """A SIGINT to all processes, as a terminal sends it, ends `check` with what it has found."""
    check = onestream("check", "--registry", "production", "--budget", "600", "--jobs", jobs)
    assert check.stderr is not None
    # The first plain line says that the search is running; all of it takes ten times as long.
    line = check.stderr.readline()
    os.killpg(check.pid, signal.SIGINT)
    printed, errors = check.communicate(timeout=HANGS_S)
    assert "Traceback" not in errors
    assert re.match(r"production \S+: \d+ executions, \d+/s, ", line)
    assert check.returncode == 2, printed
    assert re.search(r"^inconclusive +production \S+ +\d+ executions", printed, re.MULTILINE)
    assert "it was interrupted" in printed


def test_json_stays_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With --json and no terminal nothing but the object is printed, however often it could be."""
    monkeypatch.setattr(check_module, "Progress", partial(Progress, every_s=0.0))
    scenario = ("--registry", "production", "--scenario", "close_while_streaming")
    small = ("--departures", "0", "--budget", f"{AMPLE_S:g}")
    assert main(["check", "--json", *scenario, *small]) == 0
    printed, errors = capfd.readouterr()
    assert errors == ""
    assert json.loads(printed)["verdict"] == "proved"
    # The control: without --json it is.
    main(["check", *scenario, *small])
    assert " executions, " in capfd.readouterr().err
