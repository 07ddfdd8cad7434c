"""`onestream mutants`: which mutants are killed, by which property, after how many executions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from registry import StreamRegistry
from sim.bench.entry import Entry
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios import SCENARIOS_BY_LEVEL, Scenario
from sim.bench.subjects.mutants import MUTANTS, PREFIX, Mutant, broken, mutant_named
from sim.executors.base import IsStopped, MakeExecutor
from sim.executors.batches import in_order
from sim.exploration.executing import Watch, unwatched
from sim.exploration.search import explore
from sim.schedulers import DepartureBounded, DepthFirst, RandomWalk, Scheduler

EXECUTIONS_MAX = 3000
# Before the bounded search of the server level, as in `check`.
RANDOM_EXECUTIONS = 200


@dataclass(frozen=True, slots=True)
class Kill:
    """The result for a mutant. executions: of all scenarios.

    violated, scenario, schedule, text: empty if it survived.
    """

    mutant: str
    story: str
    level: str
    violated: str
    scenario: str
    executions: int
    seconds: float
    schedule: str
    text: str

    @property
    def is_killed(self) -> bool:
        return bool(self.violated)

    @property
    def killer(self) -> str:
        """The property without its sentence."""
        return self.violated.partition(":")[0]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "killed": self.is_killed}


def kill_all(
    *,
    level: str | None = None,
    name: str | None = None,
    executor: MakeExecutor | None = None,
    on_kill: Callable[[Kill], None] = lambda kill: None,
    watch: Callable[[str], Watch] = unwatched,
) -> list[Kill]:
    """Runs every mutant until the first violation. Raises ValueError for an unknown name.

    watch: of the searches that this process makes for the mutant with this name.
    """
    chosen = [mutant_named(name)] if name else [m for m in MUTANTS if level in (None, m.level)]
    tasks = [partial(_kill_named, mutant.name) for mutant in chosen]
    if executor is None:
        kills = []
        for number, mutant in enumerate(chosen, 1):
            seen = watch(f"{number} of {len(chosen)}, {mutant.name}")
            kills.append(_reported(_kill_named(mutant.name, watch=seen), on_kill))
        return kills
    with closing(executor()) as workers:
        return [_reported(kill, on_kill) for kill in in_order(workers, tasks)]


def _reported(kill: Kill, on_kill: Callable[[Kill], None]) -> Kill:
    on_kill(kill)
    return kill


def _kill_named(
    name: str, is_stopped: IsStopped = lambda: False, watch: Watch | None = None
) -> Kill:
    mutant = mutant_named(name)
    begun = time.perf_counter()
    executions = 0
    with silenced(), broken(mutant):
        for scenario, strategy in _searches(mutant):
            entry = Entry(mutant.level, scenario.name, f"{PREFIX}{name}")
            subject = entry.subject_of(scenario.program_for(StreamRegistry))
            report = explore(
                subject,
                strategy=strategy,
                max_executions=EXECUTIONS_MAX,
                watch=watch or (lambda *_: is_stopped()),
            )
            executions += report.executions
            if report.counterexample is not None:
                found, played = report.counterexample, scenario.name
                seconds = time.perf_counter() - begun
                head = (mutant.name, mutant.description, mutant.level, found.property, played)
                return Kill(*head, executions, seconds, found.schedule, found.text)
    seconds = time.perf_counter() - begun
    return Kill(mutant.name, mutant.description, mutant.level, "", "", executions, seconds, "", "")


def _searches(mutant: Mutant) -> Iterator[tuple[Scenario, Scheduler]]:
    """Natural order in all of its level's scenarios, then what is rarer, the likely ones first."""
    scenarios = SCENARIOS_BY_LEVEL[mutant.level]
    ordered = sorted(scenarios, key=lambda each: each.name not in mutant.likely)
    usual = [each for each in ordered if each.strategy is None]
    for scenario in usual:
        yield scenario, DepartureBounded(0)
    if mutant.level == "registry":
        for scenario in usual:
            yield scenario, DepthFirst()
        return
    for scenario in usual:
        yield scenario, DepartureBounded(1)
    for scenario in usual:
        yield scenario, _Random()


class _Random(RandomWalk):
    """A random walk with a limit on its executions."""

    def next_execution(self) -> bool:
        return self._executions < RANDOM_EXECUTIONS and super().next_execution()
