"""The order in which `onestream check` runs its jobs, and how much of the budget each may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from sim.bench.catalog import subject_of
from sim.bench.checking.jobs import Job, Result
from sim.bench.harness.log_capture import silenced
from sim.executors.base import MakeExecutor
from sim.exploration.executing import Watch
from sim.exploration.parallel import Key, Team, Work
from sim.exploration.progress import Progress
from sim.exploration.report import Findings, Report
from sim.exploration.subject import Problem
from sim.exploration.verdict import Verdict
from sim.schedulers import Divisible, Scheduler

# How many even shares of the budget one job may use up.
SHARES_MAX = 20
# The part of the budget after which searches for more departures than a proof needs are stopped.
DEEPENING_PART = 0.75

PlayRound = Callable[[list[Job], float], Iterable[tuple[Job, Result]]]
"""Runs jobs until a deadline, a reading of `time.perf_counter`; fewer than all if interrupted."""


class Agenda:
    """Each job within its share of the budget; then again those that need more; then, if wanted,
    deeper, the smallest first, those of which more budget proves more.
    """

    def __init__(
        self, todo: list[Job], budget_s: float, play_round: PlayRound, *, deepens: bool = True
    ) -> None:
        self._todo = todo
        self._deepens = deepens
        self._play_round = play_round
        begun = time.perf_counter()
        self._deadline = begun + budget_s
        self._deepening_deadline = begun + budget_s * DEEPENING_PART
        # By the name of the job: those for the second chance, and those to be deepened.
        self._cut_off: dict[str, tuple[Job, Result]] = {}
        self._proved: dict[str, tuple[Job, Result]] = {}

    def play(self) -> Iterator[Result]:
        """One result for each job that was begun."""
        yield from self._first_round()
        yield from self._second_chance()
        yield from self._deepen()

    def _first_round(self) -> Iterator[Result]:
        for job, result in self._play_round(self._todo, self._deadline):
            if result.report.was_out_of_budget:
                self._cut_off[job.name] = job, result
            else:
                yield from self._settled(job, result)

    def _second_chance(self) -> Iterator[Result]:
        again = [job for job, _ in self._cut_off.values()]
        for job, result in self._play_round(again, self._deadline):
            _, first = self._cut_off.pop(job.name)
            if result.was_cut_off:
                # Of two searches that did not end, the longer one has visited more.
                yield max(first, result, key=_executions)
            else:
                yield from self._settled(job, result)
        # Those that did not get a second chance, since it was interrupted.
        yield from (first for _, first in self._cut_off.values())

    def _deepen(self) -> Iterator[Result]:
        smallest_first = sorted(self._proved.values(), key=lambda each: _executions(each[1]))
        deeper = [job.deeper() for job, _ in smallest_first]
        for job, result in self._play_round(deeper, self._deepening_deadline):
            _, proved = self._proved.pop(job.name)
            # What was proved with fewer departures stays proved if this search did not end.
            yield proved if result.was_cut_off else result
        yield from (proved for _, proved in self._proved.values())

    def _settled(self, job: Job, result: Result) -> Iterator[Result]:
        """The result; none yet if it is searched deeper."""
        report = result.report
        goes_on = self._deepens and job.deepens
        if goes_on and report.verdict is Verdict.PROVED and report.complete != 1.0:
            self._proved[job.name] = job, result
        else:
            yield result


def _executions(result: Result) -> int:
    return result.report.executions


# ---- how a round is run ----------------------------------------------------------------------


@contextmanager
def players(make_executor: MakeExecutor | None, progress: Progress) -> Iterator[PlayRound]:
    """A function that runs a round, in this process or by workers."""
    if make_executor is None:
        yield partial(_play_round, progress)
        return

    def show(key: Key, begun: float, findings: Findings, scheduler: Scheduler) -> bool:
        return progress.searched(Job.of_key(key).name, begun, findings, scheduler)

    with closing(make_executor()) as executor:
        team = Team(executor, Work(_problem_of, _explored, silenced), show)
        yield partial(_play_round_in, team)


def _play_round(
    progress: Progress, todo: list[Job], deadline: float
) -> Iterable[tuple[Job, Result]]:
    for done, job in enumerate(todo):
        if progress.is_interrupted:
            return
        watch = progress.watch(job.name)
        yield job, job.result(job.explored(_share_s(deadline, len(todo) - done), watch))


def _play_round_in(team: Team, todo: list[Job], deadline: float) -> Iterable[tuple[Job, Result]]:
    jobs = {job.key: job for job in todo}
    strategies = [(key, job.strategy()) for key, job in jobs.items()]
    searches = [(key, each if isinstance(each, Divisible) else None) for key, each in strategies]
    for key, report in team.play(searches, lambda done: _share_s(deadline, len(todo) - done)):
        yield jobs[key], jobs[key].result(report)


def _share_s(deadline: float, jobs_left: int) -> float:
    """Most jobs need less than an even share of the remaining time, so one may take several."""
    return max(0.0, deadline - time.perf_counter()) * min(1.0, SHARES_MAX / jobs_left)


# ---- in a worker -----------------------------------------------------------------------------


def _problem_of(key: Key) -> Problem:
    return Problem(subject_of(Job.of_key(key).entry))


def _explored(key: Key, budget_s: float, watch: Watch) -> Report:
    return Job.of_key(key).explored(budget_s, watch)
