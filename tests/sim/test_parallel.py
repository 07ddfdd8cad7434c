"""One tree in several processes comes to what one process comes to; progress, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from sim.check import Job, _players, check
from sim.exploration import Findings
from sim.progress import Progress
from sim.scenarios import SCENARIOS_BY_LEVEL
from sim.schedulers import DepartureBounded, DepthFirst, Part, Scheduler
from sim.suspects.mutants import broken, mutant_named
from tests.sim.test_estimate import SEARCHES, TREES, Tree
from tests.sim.test_estimate import Path as ChoicePath

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
@pytest.mark.parametrize("slices", [[], [1, 1, 1, 1, 1], [7, 1, 3], [0, 5, 0, 2, 9]])
def test_parts_see_what_the_whole_sees(tree: Tree, search: str, slices: list[int]) -> None:
    """However a tree is divided, its parts in their order are the search in its order."""
    make, _ = SEARCHES[search]
    alone, divided = make(), make()
    assert isinstance(divided, DepthFirst | DepartureBounded)
    seen: list[ChoicePath] = []
    while (part := divided.begin_round()) is not None:
        seen += seen_by(tree, part, slices)
        divided.end_round(part.was_cut)
    assert seen == rest(tree, alone)
    assert divided.is_exhausted
    assert (divided.covers, divided.complete) == (alone.covers, alone.complete)


# ---- in processes ----------------------------------------------------------------------------


def came_to(found: Any) -> list[dict[str, Any]]:
    results = [{**each, "seconds": 0} for each in found.as_json()["results"]]
    return sorted(results, key=lambda each: (each["registry"], each["scenario"]))


@pytest.mark.parametrize("scenario", ["caller_leaves_overtaken", "second_prompt"])
def test_two_jobs_come_to_what_one_comes_to(scenario: str) -> None:
    """Verdicts, counts, labels and counterexamples are the same, proved or refuted."""
    one, two = (check(level="registry", scenario=scenario, jobs=jobs) for jobs in (1, 2))
    assert came_to(one) == came_to(two)
    assert {each.report.verdict for each in one.results} == {"proved", "refuted"}


@pytest.mark.parametrize("registry", ["production", "quick_fix"])
def test_two_jobs_come_to_the_same_within_a_bound(registry: str) -> None:
    """As above, for the search bounded in departures and the random executions beside it."""
    (scenario,) = (
        each for each in SCENARIOS_BY_LEVEL["server"] if each.name == "second_prompt.async"
    )
    job = Job("server", registry, scenario, departures=1)
    found = []
    for jobs in (1, 2):
        with _players(jobs, Progress(None, 120)) as play_round:
            ((_, result),) = play_round([job], perf_counter() + 120)
        found.append({**result.as_json(), "seconds": 0})
    assert found[0] == found[1]
    assert found[0]["executions"] > 10 or registry == "quick_fix"


def test_two_jobs_find_the_first_counterexample() -> None:
    """Also one that lies deep in the tree, behind parts that are searched at the same time."""
    # The workers are forks of this process, so that they are broken as well.
    with broken(mutant_named("withdrawn_by_name_and_not_by_identity")):
        one, two = (
            check(scenario="caller_leaves_overtaken", registry="production", jobs=jobs)
            for jobs in (1, 2)
        )
    assert one.verdict == "refuted"
    assert one.results[0].report.executions > 50
    assert came_to(one) == came_to(two)


def test_each_scenario_has_a_result_however_small_the_budget() -> None:
    """What was not begun is inconclusive, and not left out."""
    one, two = (check(budget_s=0.2, jobs=jobs) for jobs in (1, 2))
    assert one.verdict == two.verdict == "inconclusive"
    names = [
        sorted((each.registry, each.scenario) for each in found.results) for found in (one, two)
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 60


def test_two_jobs_say_how_far_they_came() -> None:
    """Out of budget, a divided search has seen a part of the tree, and may say how much is left."""
    found = check(scenario="racing_registers", registry="production", budget_s=1.5, jobs=2)
    (result,) = found.results
    assert result.report.was_out_of_budget
    assert result.report.executions > 10
    assert result.report.complete is not None
    assert 0 < result.report.complete < 1


# ---- progress --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    progress = Progress(stream, 60.0, plain_every_s=0.0)
    progress._every_s = 0.0
    progress._next_at = 0.0
    scheduler = DepartureBounded(2)
    for number in range(2):
        findings = Findings(executions=100 * (number + 1), choice_points=12)
        assert not progress.show("production a", perf_counter() - 2.0, findings, scheduler)
    progress.clear()
    return stream.getvalue()


def test_progress_is_a_line_that_is_redrawn_on_a_terminal() -> None:
    """It has one line, without an end, and is taken away before anything else is printed."""
    text = shown(Terminal())
    assert "\n" not in text
    assert text.count("\r\x1b[K") == 3
    assert text.endswith("\r\x1b[K")


def test_progress_is_plain_lines_elsewhere() -> None:
    """Each says executions, rate, bound, depth and the budget that is left, and stays."""
    first, second = shown(io.StringIO()).splitlines()
    assert first == (
        "production a: 100 executions, 50/s, up to 0 departures, 12 choice points deep, 60 s left"
    )
    assert second.startswith("production a: 200 executions, 100/s")


def test_no_progress_without_a_stream() -> None:
    """As with --json."""
    progress = Progress(None, 60.0)
    assert not progress.show("a", perf_counter(), Findings(), DepthFirst())
    progress.clear()


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
def test_ctrl_c_gives_the_inconclusive_report(jobs: str) -> None:
    """A SIGINT to all processes, as a terminal sends it, ends `check` with what it has found."""
    check = onestream(
        "check", "--registry", "production", "--scenario", "racing_registers", "--jobs", jobs
    )
    assert check.stderr is not None
    # The first plain line comes after PLAIN_EVERY_S, so the search is under way; a fast machine
    # may be through by then, and has then proved it.
    line = check.stderr.readline()
    os.killpg(check.pid, signal.SIGINT)
    printed, errors = check.communicate(timeout=60)
    assert "Traceback" not in errors
    if not line:
        pytest.skip("it was through before it said anything")
    assert re.match(r"production racing_registers: \d+ executions, \d+/s, depth-first", line)
    assert check.returncode == 2, printed
    assert re.search(r"^inconclusive +production racing_registers +\d+ executions", printed)
    assert "it was interrupted" in printed


@pytest.mark.socket
def test_json_stays_alone() -> None:
    """With --json and no terminal nothing but the object is printed."""
    check = onestream(
        "check", "--json", "--registry", "production", "--scenario", "racing_registers"
    )
    printed, errors = check.communicate(timeout=120)
    assert errors == ""
    assert json.loads(printed)["verdict"] in {"proved", "inconclusive"}
