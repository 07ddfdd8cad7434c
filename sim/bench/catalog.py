"""What the bench checks, by name: a scenario of a level on a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sim.bench.entry import Entry
from sim.bench.harness.log_capture import silenced
from sim.bench.levels import LEVELS
from sim.bench.scenarios import SCENARIOS_BY_LEVEL, Scenario
from sim.bench.scenarios.client import ClientScenario, ClientSize
from sim.bench.scenarios.cluster_level import limit_of
from sim.bench.scenarios.server_level.sized import SizedServerScenario
from sim.bench.scenarios.sized import Size, SizedScenario
from sim.bench.simulation.scenario import PREFIX as SIMULATED
from sim.bench.simulation.scenario import SimulatedSeed
from sim.bench.subjects.mutants import broken_as
from sim.exploration.subject import Subject


def subject_of(entry: Entry) -> Subject:
    """Raises ValueError for an unknown scenario or registry."""
    if entry.scenario.startswith(SIMULATED):
        simulated = SimulatedSeed.named(entry.scenario, entry.level)
        return entry.subject_of(simulated.program_for(entry.registry_class))
    ((_, scenario),) = scenarios_named(entry.level, entry.scenario)
    cls = entry.registry_class
    return entry.subject_of(scenario.program_for(cls), scenario.labels_for(cls))


def description_of(entry: Entry) -> str:
    """What happens in its scenario, in words; nothing of a long random run."""
    if entry.scenario.startswith(SIMULATED):
        return ""
    ((_, scenario),) = scenarios_named(entry.level, entry.scenario)
    return scenario.description


def limit_shown_by(entry: Entry) -> str:
    """The assumption that its scenario breaks; empty for one within all of them."""
    if entry.scenario.startswith(SIMULATED):
        return ""
    ((_, scenario),) = scenarios_named(entry.level, entry.scenario)
    return limit_of(scenario)


@contextmanager
def as_played(name: str) -> Iterator[Subject]:
    """The subject of an entry; in the block nothing is logged, and a mutant's production is broken.

    Raises ValueError for an unknown scenario or registry.
    """
    entry = Entry.parse(name)
    with broken_as(entry.registry), silenced():
        yield subject_of(entry)


def scenarios_named(level: str | None, name: str | None) -> Iterable[tuple[str, Scenario]]:
    if level is not None and level not in SCENARIOS_BY_LEVEL:
        raise ValueError(f"level {level!r} is not known; there is {', '.join(SCENARIOS_BY_LEVEL)}")
    known = [
        (each_level, each)
        for each_level, scenarios in SCENARIOS_BY_LEVEL.items()
        for each in scenarios
        if level == each_level or (level is None and each_level in LEVELS)
    ]
    if name is None:
        return known
    size, sized = Size.parse(name), SizedServerScenario.parse(name)
    client = ClientSize.parse(name)
    if client is not None and level in (None, "registry"):
        return [("registry", ClientScenario(client))]
    if size is not None and level in (None, "registry"):
        return [("registry", SizedScenario(size))]
    if sized is not None and level in (None, "server"):
        return [("server", sized)]
    found = [(each_level, each) for each_level, each in known if each.name == name]
    if not found:
        names = ", ".join(each.name for _, each in known)
        raise ValueError(f"scenario {name!r} is not known; there are {names}")
    return found
