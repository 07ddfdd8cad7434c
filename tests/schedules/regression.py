"""Regression schedules: departures by their labels, the broken line they refute, and by what.

`python -m tests.schedules.regression SCENARIO MUTANT` prints one, for the file of that name.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry import StreamRegistry
from sim import explore
from sim.bench.harness.log_capture import silenced
from sim.bench.harness.server_bench import DECLARED_FILES
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.subjects.mutants import registry as registry_mutants
from sim.bench.subjects.mutants import server as server_mutants
from sim.counterexamples.counterexample import Counterexample
from sim.kernel.execution import Program
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Schedule
from sim.schedulers import DepartureBounded, RandomWalk, Replay, Scheduler
from tests.executed import executed
from tests.schedules.by_labels import ByLabels, LabelledDeparture, Labelling

FOLDER = Path(__file__).parent
MUTANTS_BY_LEVEL: dict[str, Any] = {"registry": registry_mutants, "server": server_mutants}


@dataclass(frozen=True, slots=True)
class Regression:
    """One file. mutant: the function, named for its bug, that breaks production so that the
    schedule violates `violates`; unbroken, production keeps every promise under it."""

    name: str
    level: str
    scenario: str
    mutant: str
    violates: str
    departures: tuple[LabelledDeparture, ...]

    def break_production(self, patch: pytest.MonkeyPatch) -> None:
        break_it: Callable[[pytest.MonkeyPatch], None] = getattr(
            MUTANTS_BY_LEVEL[self.level], self.mutant
        )
        break_it(patch)

    def replay(self) -> Outcome:
        """Raises ScheduleDoesNotFit unless every departure was met."""
        scheduler = ByLabels(self.departures, DECLARED_FILES)
        program = program_of(self.level, self.scenario)
        with silenced():
            outcome = executed(program, scheduler)
        scheduler.require_all_taken()
        return outcome

    def as_toml(self) -> str:
        head = [
            f'{name} = "{getattr(self, name)}"'
            for name in ("level", "scenario", "mutant", "violates")
        ]
        tables = [departure.as_toml() for departure in self.departures]
        return "\n\n".join(["\n".join(head), *tables]) + "\n"


def loaded(path: Path) -> Regression:
    """Raises ValueError, TypeError or KeyError for a file that is no regression."""
    fields = tomllib.loads(path.read_text())
    departures = tuple(LabelledDeparture.from_table(each) for each in fields.pop("departures"))
    return Regression(name=path.stem, departures=departures, **fields)


def regressions() -> list[Regression]:
    return [loaded(path) for path in sorted(FOLDER.glob("*.toml"))]


def program_of(level: str, scenario: str) -> Program:
    (found,) = (each for each in SCENARIOS_BY_LEVEL[level] if each.name == scenario)
    return found.program_for(StreamRegistry)


def recorded(scenario: str, mutant: str) -> Regression | None:
    """The shrunk counterexample of a mutant that was put in; None if there is none."""
    (level,) = (level for level, module in MUTANTS_BY_LEVEL.items() if hasattr(module, mutant))
    program = program_of(level, scenario)
    found = refuted(program, DepartureBounded(1)) or refuted(program, RandomWalk(), 200)
    if found is None:
        return None
    replay = Replay(Schedule.parse(found.schedule).departures)
    labelling = Labelling(replay, DECLARED_FILES)
    with silenced():
        executed(program, labelling)
    violates = found.property.partition(":")[0]
    return Regression(mutant, level, scenario, mutant, violates, tuple(labelling.departures()))


def refuted(program: Program, strategy: Scheduler, executions: int = 2000) -> Counterexample | None:
    with silenced():
        return explore(program, strategy=strategy, max_executions=executions).counterexample


def main() -> None:
    scenario, mutant = sys.argv[1:]
    module = MUTANTS_BY_LEVEL["server" if "." in scenario else "registry"]
    with pytest.MonkeyPatch.context() as patch:
        getattr(module, mutant)(patch)
        regression = recorded(scenario, mutant)
    print(regression.as_toml() if regression is not None else f"{mutant} was not refuted")


if __name__ == "__main__":
    main()
