"""`onestream check` and `onestream replay`: the scenarios, played on registries under check."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TextIO

from sim.catalog import Entry, scenarios_named, subject_named
from sim.counterexample import Counterexample, make_counterexample, replay_schedule
from sim.errors import ScheduleDoesNotFit
from sim.execution import Outcome, Program, guarded
from sim.exploration import Findings, Problem, Report, Watch, explore
from sim.export import export
from sim.log_capture import silenced
from sim.observed_protocol import ROWS
from sim.parallel import Key, Team
from sim.progress import Progress
from sim.scenarios import Playable
from sim.scenarios.sized import Size
from sim.schedule import Schedule
from sim.schedulers import (
    DepartureBounded,
    DepthFirst,
    Divisible,
    RandomBeside,
    Scheduler,
    StateMatching,
)
from sim.simulate.scenario import PREFIX as SIMULATED
from sim.stock_sources import Bundle, NotExportable, bundle_of, bundle_of_entry
from sim.suspects import PRODUCTION, PUBLISHED, suspect_class
from sim.suspects.mutants import broken_as, mutant_of
from sim.suspects.mutants.base import Undoable
from sim.tested_pythons import interpreter
from sim.verdict import Verdict

# Where the results of one registry differ, the first of these that occurs is its verdict.
SEVERITY = (Verdict.ERROR, Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.PROVED)
# At server level depth-first search drowns, so it is all schedules with up to so many departures
# first. Where the budget allows, it is every schedule then, if states can be read, and with worker
# threads one departure more. See ARCHITECTURE.md.
DEPARTURES = 1
# Beside the bounded search, for what lies beyond the bound.
RANDOM_EXECUTIONS = 10
# How many even shares of the budget one job may use up.
SHARES_MAX = 20
# Up to which part of the budget it is spent on more departures than a proof needs.
DEEPENING_PART = 0.75


@dataclass(frozen=True, slots=True)
class Job:
    """One scenario to be played on one registry.

    departures: how many there may be, at server level; None for any number, by matching states.
    """

    level: str
    registry: str
    scenario: Playable
    departures: int | None = DEPARTURES

    @property
    def key(self) -> Key:
        """What another process builds it from."""
        return self.level, self.registry, self.scenario.name, self.departures

    @property
    def entry(self) -> Entry:
        return Entry(self.level, self.scenario.name, self.registry)

    @property
    def name(self) -> str:
        return f"{self.registry} {self.scenario.name}"

    def deeper(self) -> Job:
        """What more budget is spent on. To be called of one with a number of departures."""
        assert self.departures is not None
        is_read = self.level == "server" and self.scenario.name.endswith(".async")
        return replace(self, departures=None if is_read else self.departures + 1)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job."""

    level: str
    registry: str
    scenario: str
    report: Report

    def as_json(self) -> dict[str, Any]:
        report, found = self.report, self.report.counterexample
        return {
            "registry": self.registry,
            "scenario": self.scenario,
            "level": self.level,
            "verdict": report.verdict,
            "reason": report.reason,
            "claim": report.claim,
            "executions": report.executions,
            "seconds": round(report.seconds, 3),
            "complete": report.complete,
            "found_by": report.found_by,
            "bounds": str(report.bounds),
            "bounds_hit": sorted(report.bounds_hit),
            "labels": sorted(label for label in report.labels if label not in ROWS),
            "digest": report.digest,
            "counterexample": found and _counterexample_json(found),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on the registry under check, and everything it rests on.

    not_applicable: pairs of registry and scenario that were not played, since the registry has
    not the methods for it. rows_missing: rows of the protocol's table that production never took.
    """

    verdict: Verdict
    results: list[Result]
    not_applicable: list[tuple[str, str]]
    rows_missing: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "interpreter": interpreter(),
            "results": [result.as_json() for result in self.results],
            "not_applicable": [
                {"registry": registry, "scenario": scenario}
                for registry, scenario in self.not_applicable
            ],
            "rows_missing": self.rows_missing,
        }


def check(
    *,
    level: str | None = None,
    scenario: str | None = None,
    registry: str | None = None,
    budget_s: float = 60.0,
    jobs: int = 1,
    on_result: Callable[[Result], None] = lambda result: None,
    progress_to: TextIO | None = None,
) -> Checked:
    """Plays the scenarios; without `registry`, on production and on the published registries.

    budget_s: real seconds for everything together. jobs: how many processes work, on one tree if
    only one is left. progress_to: where to say what is going on. Ctrl-C ends it, with what was
    found so far.
    Raises ValueError for a level, scenario or registry that there is not.
    """
    under_check = registry or PRODUCTION
    # The published ones fall at once; what is left of the budget is production's.
    names = (registry,) if registry else (*PUBLISHED, PRODUCTION)
    todo, not_applicable = _jobs(names, scenarios_named(level, scenario))
    if not any(job.registry == under_check for job in todo):
        raise ValueError(
            f"scenario {scenario!r} is not applicable to {under_check}: it needs methods that the "
            f"registry has not"
        )
    results = []
    progress = Progress(progress_to, budget_s)
    with progress.interruptible():
        for result in _play_all(todo, budget_s, jobs, progress):
            results.append(result)
            progress.clear()
            on_result(result)
    is_whole = under_check == PRODUCTION and scenario is None and len(results) == len(todo)
    missing = _rows_missing(results) if is_whole else []
    verdicts = [each.report.verdict for each in results if each.registry == under_check]
    if missing or len(results) < len(todo):
        verdicts.append(Verdict.INCONCLUSIVE)
    return Checked(min(verdicts, key=SEVERITY.index), results, not_applicable, missing)


def replay(text: str) -> Counterexample | None:
    """Replays a schedule; None if the violation did not come back.

    Raises ValueError for a text that is no schedule, ScheduleDoesNotFit for one that was made
    with other code.
    """
    schedule = Schedule.parse(text)
    with _as_played(schedule):
        program, outcome = _replayed(schedule)
        if outcome.violation is None:
            return None
        return make_counterexample(program, outcome, schedule)


@contextmanager
def _as_played(schedule: Schedule) -> Iterator[None]:
    """Production is broken, where the schedule is a mutant's; nothing is logged."""
    entry = Entry.parse(schedule.subject)
    with broken_as(entry.registry if entry is not None else ""), silenced():
        yield


def exported(text: str) -> str:
    """The file that forces a schedule on stock asyncio.

    Raises ValueError for a text that is no schedule, ScheduleDoesNotFit for one that was made
    with other code, NotExportable where no selector could bring it about.
    """
    schedule = Schedule.parse(text)
    with _as_played(schedule):
        program, outcome = _replayed(schedule)
        bundle = _bundle(schedule, program)
        story = (
            f"no violation: under this schedule every property holds\n"
            f"replay: onestream replay {text}"
        )
        if outcome.violation is not None:
            story = make_counterexample(program, outcome, schedule).text
    return export(outcome, bundle, schedule.bounds, story)


def _bundle(schedule: Schedule, program: Program) -> Bundle:
    entry = Entry.parse(schedule.subject)
    if entry is None:
        return bundle_of(program)
    if entry.level == "registry":
        return bundle_of_entry(_entry(entry))
    raise NotExportable(
        f"a schedule of level {entry.level} cannot be forced on stock asyncio: the network, "
        f"the clients and Ollama are SimPy processes there. Those of the registry and of programs "
        f"of your own can"
    )


def _entry(entry: Entry) -> str:
    """The module that makes the program of a registry and a scenario."""
    cls = entry.registry_class
    return (
        f"from {cls.__module__} import {cls.__qualname__}\n"
        f"{_entry_scenario(entry)}"
        f"{_entry_breaks(entry)}\n"
        f"program = scenario.program_for({cls.__qualname__})\n"
    )


def _entry_scenario(entry: Entry) -> str:
    """The lines that make its `scenario`. Raises NotExportable."""
    why = None
    if entry.scenario.startswith(SIMULATED):
        why = "the modules that draw its plan need the server, which no file can carry"
    elif Size.parse(entry.scenario) is not None:
        why = "its outside events are announced to SimPy, and answered within a poll"
    if why is not None:
        raise NotExportable(
            f"{entry.scenario} cannot be forced on stock asyncio: {why}. The scenarios by name of "
            f"`onestream check` can"
        )
    return (
        f"from sim.scenarios.registry_level import REGISTRY_SCENARIOS\n"
        f"scenarios = {{each.name: each for each in REGISTRY_SCENARIOS}}\n"
        f"scenario = scenarios[{entry.scenario!r}]\n"
    )


def _entry_breaks(entry: Entry) -> str:
    """The lines that break production, where it is a mutant that is exported."""
    mutant = mutant_of(entry.registry)
    if mutant is None:
        return ""
    module = inspect.getmodule(mutant.breaks)
    if mutant.level != "registry" or module is None:
        raise NotExportable(
            f"mutant {mutant.name} breaks the server, which no file can carry; mutants of the "
            f"registry can be forced on stock asyncio"
        )
    return (
        f"from {Undoable.__module__} import {Undoable.__name__}\n"
        f"from {module.__name__} import {mutant.name}\n\n"
        f"{mutant.name}({Undoable.__name__}())\n"
    )


def _replayed(schedule: Schedule) -> tuple[Program, Outcome]:
    """To be called with production broken, where the schedule is a mutant's."""
    subject = subject_named(schedule.subject)
    if subject.digest != schedule.digest:
        entry = Entry.parse(schedule.subject)
        again = f"Run `onestream {entry.command}`" if entry is not None else "Explore it"
        raise ScheduleDoesNotFit(
            f"the schedule was made with the digest {schedule.digest}, the code here has "
            f"{subject.digest}: the code, the interpreter or a dependency is another. {again} "
            f"again to get schedules that fit"
        )
    with guarded():
        return subject.program, replay_schedule(subject.program, schedule)


def _jobs(
    registries: Iterable[str], scenarios: Iterable[tuple[str, Playable]]
) -> tuple[list[Job], list[tuple[str, str]]]:
    todo, not_applicable = [], []
    for registry in registries:
        cls = suspect_class(registry)
        for level, scenario in scenarios:
            if scenario.applies_to(cls):
                todo.append(Job(level, registry, scenario))
            else:
                not_applicable.append((registry, scenario.name))
    return todo, not_applicable


def _play_all(
    todo: list[Job], budget_s: float, processes: int, progress: Progress
) -> Iterable[Result]:
    """Plays each job within its share of the budget; then again those that it did not suffice;
    then deeper, the smallest first, those that more budget proves more of."""
    begun = time.perf_counter()
    deadline = begun + budget_s
    with _players(processes, progress) as play_round:
        finished: list[tuple[Job, Result]] = []
        unfinished: dict[str, tuple[Job, Result]] = {}
        for job, result in play_round(todo, deadline):
            if result.report.was_out_of_budget:
                unfinished[job.name] = job, result
            elif _is_final(job, result):
                yield result
            else:
                finished.append((job, result))
        for job, result in play_round([job for job, _ in unfinished.values()], deadline):
            _, first = unfinished.pop(job.name)
            if result.report.was_out_of_budget or result.report.was_interrupted:
                # The longer of two searches that found no end says more.
                yield max(first, result, key=lambda each: each.report.executions)
            elif _is_final(job, result):
                yield result
            else:
                finished.append((job, result))
        # Those whose turn did not come again, since it was interrupted.
        yield from (result for _, result in unfinished.values())
        finished.sort(key=lambda each: each[1].report.executions)
        before = {job.name: result for job, result in finished}
        deeper = [job.deeper() for job, _ in finished]
        for job, result in play_round(deeper, begun + budget_s * DEEPENING_PART):
            # What was proved with fewer departures stays proved if this one found no end.
            proved = before.pop(job.name)
            if result.report.was_out_of_budget or result.report.was_interrupted:
                yield proved
            else:
                yield result
        yield from before.values()


def _is_final(job: Job, result: Result) -> bool:
    """Whether more budget could say no more."""
    report = result.report
    deepens = isinstance(_strategy(job), RandomBeside)
    return report.verdict is not Verdict.PROVED or report.complete == 1.0 or not deepens


PlayRound = Callable[[list[Job], float], Iterable[tuple[Job, Result]]]


@contextmanager
def _players(processes: int, progress: Progress) -> Iterator[PlayRound]:
    """What plays a round of jobs until a deadline, in this process or in several."""
    if processes == 1:
        yield partial(_play_round, progress)
        return

    def show(key: Key, begun: float, findings: Findings, scheduler: Scheduler) -> bool:
        return progress.show(f"{key[1]} {key[2]}", begun, findings, scheduler)

    with Team(processes, _problem_named, _explore_named, show, silenced) as team:
        yield partial(_play_round_in, team)


def _play_round(
    progress: Progress, todo: list[Job], deadline: float
) -> Iterable[tuple[Job, Result]]:
    for done, job in enumerate(todo):
        if progress.is_interrupted:
            return
        watch = partial(progress.show, job.name, time.perf_counter())
        report = _explored(job, _share_s(deadline, len(todo) - done), watch)
        yield job, Result(job.level, job.registry, job.scenario.name, report)


def _play_round_in(team: Team, todo: list[Job], deadline: float) -> Iterable[tuple[Job, Result]]:
    jobs = {job.key: job for job in todo}
    strategies = [(key, _strategy(job)) for key, job in jobs.items()]
    searches = [(key, each if isinstance(each, Divisible) else None) for key, each in strategies]
    for key, report in team.play(searches, lambda done: _share_s(deadline, len(todo) - done)):
        job = jobs[key]
        yield job, Result(job.level, job.registry, job.scenario.name, report)


def _share_s(deadline: float, jobs_left: int) -> float:
    """Most jobs need less than an even share of what is left, so one may take several."""
    return max(0.0, deadline - time.perf_counter()) * min(1.0, SHARES_MAX / jobs_left)


def _job_named(key: Key) -> Job:
    level, registry, scenario_name, departures = key
    ((_, scenario),) = scenarios_named(level, scenario_name)
    return Job(level, registry, scenario, departures)


def _problem_named(key: Key) -> Problem:
    job = _job_named(key)
    return Problem(job.entry.subject())


def _explore_named(key: Key, budget_s: float, watch: Watch) -> Report:
    return _explored(_job_named(key), budget_s, watch)


def _explored(job: Job, budget_s: float, watch: Watch) -> Report:
    with silenced():
        return explore(job.entry.subject(), strategy=_strategy(job), budget_s=budget_s, watch=watch)


def _strategy(job: Job) -> str | Scheduler:
    if job.scenario.strategy is not None:
        return job.scenario.strategy
    if job.level == "registry":
        return DepthFirst()
    if job.departures is None:
        return StateMatching()
    bounded = DepartureBounded(job.departures)
    return RandomBeside(bounded, random_executions=RANDOM_EXECUTIONS)


def _rows_missing(results: list[Result]) -> list[str]:
    reached: set[str] = set()
    for result in results:
        if result.registry == PRODUCTION:
            reached |= result.report.labels
    return sorted(ROWS - reached)


def _counterexample_json(found: Counterexample) -> dict[str, str]:
    return {"property": found.property, "schedule": found.schedule, "text": found.text}
