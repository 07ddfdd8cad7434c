"""Runs seeds, in this process or by several workers, and reports their results.

Only the seconds in a report depend on the number of workers: results are taken in the order of
the seeds, and the first seed that violates a property ends the run.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from registry import StreamRegistry
from sim.bench.harness.log_capture import silenced
from sim.bench.simulation.labels import labels_required
from sim.bench.simulation.profiles import CLIENTS, PROFILES, Client, profile_named
from sim.bench.simulation.scenario import SimulatedSeed, applies_to
from sim.bench.simulation.shrinking import schedule_of, shrunk
from sim.bench.simulation.statistics import Statistics
from sim.bench.subjects import registry_class
from sim.counted import counted
from sim.counterexamples.counterexample import Counterexample
from sim.counterexamples.shrink import Departures
from sim.executors.base import IsStopped, MakeExecutor, WorkersLost
from sim.executors.batches import in_order
from sim.exploration.tested_pythons import interpreter
from sim.exploration.verdict import Stop, Verdict
from sim.kernel.errors import Nondeterminism
from sim.kernel.execution import run_execution
from sim.kernel.guards import guarded, look_ahead
from sim.kernel.schedule import Bounds, departures_of
from sim.kernel.violation import Violation
from sim.schedulers import Swarm

# Small, so that a failure is reported soon, and no worker waits long for the others at the end.
SEEDS_PER_BATCH = 10
# From this many seeds on a run has to reach the labels of its profiles.
LABELS_FROM_SEEDS = 400
# How many of the first seeds are run twice, to see that they are the same execution.
SEEDS_COMPARED = 8


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is simulated: seeds take turns with the profiles, and these with the clients."""

    level: str
    registry: str
    profiles: tuple[str, ...]
    clients: tuple[Client, ...]

    def seed(self, seed: int) -> SimulatedSeed:
        profile = self.profiles[seed % len(self.profiles)]
        client = self.clients[seed // len(self.profiles) % len(self.clients)]
        return SimulatedSeed(self.level, profile_named(profile), client, seed)

    def command(self, seed: int) -> str:
        """The command that runs this seed alone."""
        simulated = self.seed(seed)
        client = f" --client {simulated.client}" if self.level == "server" else ""
        return (
            f"onestream simulate --level {self.level} --registry {self.registry} "
            f"--profile {simulated.profile.name}{client} --first-seed {seed} --seeds 1"
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that violated a property, or has no verdict: then `error` says why."""

    seed: int
    violation: Violation | None
    departures: Departures
    error: str | None


@dataclass(slots=True)
class Batch:
    """The results of some consecutive seeds; the last of them is the failed one, if any."""

    digests: list[bytes] = field(default_factory=list)
    happened: Statistics = field(default_factory=Statistics)
    labels: set[str] = field(default_factory=set)
    failure: Failure | None = None

    def add(self, other: Batch) -> None:
        self.digests += other.digests
        self.happened.add(other.happened)
        self.labels |= other.labels
        self.failure = other.failure


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """verdict: `passed`, `refuted`, `inconclusive` or `error`; a random run never proves anything.

    seeds: how many were run, the failed one included. digest: of all their executions, the same
    for every number of workers. labels: rows of the protocol's table and what the statistics
    count. command: to run the failed seed again.
    """

    simulation: Simulation
    verdict: Verdict
    reason: str
    first_seed: int
    seeds: int
    seconds: float
    happened: Statistics
    labels: frozenset[str]
    labels_missing: tuple[str, ...]
    digest: str
    failure: Failure | None = None
    counterexample: Counterexample | None = None

    def as_json(self) -> dict[str, Any]:
        found, failure = self.counterexample, self.failure
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "level": self.simulation.level,
            "registry": self.simulation.registry,
            "profiles": self.simulation.profiles,
            "clients": self.simulation.clients if self.simulation.level == "server" else (),
            "first_seed": self.first_seed,
            "seeds": self.seeds,
            "seconds": round(self.seconds, 3),
            "seeds_per_second": round(self.seeds / self.seconds, 2) if self.seconds else None,
            **self.happened.as_json(),
            "labels": sorted(self.labels),
            "labels_missing": self.labels_missing,
            "interpreter": interpreter(),
            "digest": self.digest,
            "failed_seed": failure and failure.seed,
            "command": failure and self.simulation.command(failure.seed),
            "counterexample": found and found.as_json(),
        }


def make_simulation(
    *, level: str | None, registry: str, profile: str | None, client: str
) -> Simulation:
    """level: None for the server's, or the registry's where the registry has no place in a server.

    Raises ValueError for an unknown name.
    """
    cls = registry_class(registry)
    if level is None:
        level = "server" if applies_to(cls, "server") else "registry"
    if not applies_to(cls, level):
        raise ValueError(
            f"registry {registry!r} cannot be put into the server: it needs the states and the "
            f"emit gate of ours, or a classmethod for_server(executor) as the published ones have; "
            f"simulate it with --level registry"
        )
    profiles = tuple(PROFILES) if profile is None else (profile_named(profile).name,)
    known: dict[str, tuple[Client, ...]] = {"both": CLIENTS, **{c: (c,) for c in CLIENTS}}
    clients = known[client] if level == "server" else CLIENTS[:1]
    return Simulation(level, registry, profiles, clients)


def simulate(
    simulation: Simulation,
    *,
    seeds: int,
    first_seed: int = 0,
    executor: MakeExecutor | None = None,
    budget_s: float | None = None,
    on_progress: Callable[[Batch], None] = lambda done: None,
    on_failure: Callable[[Failure], None] = lambda failure: None,
) -> SimulationReport:
    """Runs the seeds in their order until one fails, then shrinks the failed one.

    executor: whose workers run them; None for this process. on_progress: called with all results
    so far, after each batch. on_failure: called with the failed seed before it is shrunk.
    """
    begun = time.perf_counter()
    done = Batch()
    stopped: Stop | None = None
    differs: str | None = None
    numbers = range(first_seed, first_seed + seeds)
    batches = [numbers[i : i + SEEDS_PER_BATCH] for i in range(0, len(numbers), SEEDS_PER_BATCH)]
    results = _played(simulation, batches, executor)
    try:
        for batch in results:
            done.add(batch)
            on_progress(done)
            if done.failure is not None:
                break
            if budget_s is not None and time.perf_counter() - begun >= budget_s:
                stopped = Stop.OUT_OF_BUDGET
                break
    except KeyboardInterrupt:
        stopped = Stop.INTERRUPTED
    except (WorkersLost, Nondeterminism) as exc:
        done.failure = Failure(first_seed + len(done.digests), None, (), str(exc))
    finally:
        results.close()
    seconds = time.perf_counter() - begun
    if len(done.digests) == seeds:
        stopped = None
    counterexample = None
    if done.failure is not None and done.failure.violation is not None:
        on_failure(done.failure)
        counterexample = _counterexample(simulation, done.failure)
    elif done.failure is None and stopped is not Stop.INTERRUPTED:
        differs = _compared(simulation, first_seed, done)
    return _report(simulation, first_seed, done, seconds, differs or stopped, counterexample)


def _report(
    simulation: Simulation,
    first_seed: int,
    done: Batch,
    seconds: float,
    stopped: str | None,
    counterexample: Counterexample | None,
) -> SimulationReport:
    labels = done.labels | done.happened.labels
    missing = _labels_missing(simulation, done, labels)
    verdict, reason = _verdict(done, stopped, missing, counterexample)
    return SimulationReport(
        simulation=simulation,
        verdict=verdict,
        reason=reason,
        first_seed=first_seed,
        seeds=len(done.digests),
        seconds=seconds,
        happened=done.happened,
        labels=frozenset(labels),
        labels_missing=missing,
        digest=hashlib.sha256(b"".join(done.digests)).hexdigest()[:16],
        failure=done.failure,
        counterexample=counterexample,
    )


def _verdict(
    done: Batch,
    stopped: str | None,
    missing: tuple[str, ...],
    counterexample: Counterexample | None,
) -> tuple[Verdict, str]:
    seeds = counted(len(done.digests), "seed")
    failure = done.failure
    if failure is not None and failure.violation is None:
        return Verdict.ERROR, f"seed {failure.seed}: {failure.error}"
    if failure is not None:
        if counterexample is None:
            return (
                Verdict.INCONCLUSIVE,
                f"nondeterminism found: seed {failure.seed} is not the same again",
            )
        return Verdict.REFUTED, f"{counterexample.headline} (seed {failure.seed})"
    if stopped is not None:
        return Verdict.INCONCLUSIVE, f"{stopped} after {seeds} without a violation"
    if missing:
        return Verdict.INCONCLUSIVE, f"never reached in {seeds}: {', '.join(missing)}"
    return Verdict.PASSED, f"no violation in {seeds}"


def _labels_missing(simulation: Simulation, done: Batch, labels: set[str]) -> tuple[str, ...]:
    is_production = issubclass(registry_class(simulation.registry), StreamRegistry)
    if len(done.digests) < LABELS_FROM_SEEDS or done.failure is not None or not is_production:
        return ()
    required = labels_required(simulation.level, simulation.profiles, simulation.clients)
    return tuple(sorted(required - labels))


# ---- one seed, and many ----------------------------------------------------------------------


def _played(
    simulation: Simulation, batches: Iterable[range], make_executor: MakeExecutor | None
) -> Generator[Batch, None, None]:
    if make_executor is None:
        for batch in batches:
            yield play_batch(simulation, batch)
        return
    look_ahead()
    with closing(make_executor()) as executor:
        tasks = (partial(play_batch, simulation, batch) for batch in batches)
        yield from in_order(executor, tasks)


def play_batch(
    simulation: Simulation, seeds: Iterable[int], is_stopped: IsStopped = lambda: False
) -> Batch:
    """Runs the seeds in their order, up to the first that fails, or until it is stopped."""
    cls = registry_class(simulation.registry)
    done = Batch()
    with guarded(), silenced():
        for seed in seeds:
            done.add(_play(simulation.seed(seed), cls))
            if done.failure is not None or is_stopped():
                break
    gc.collect(1)
    return done


def _play(simulated: SimulatedSeed, cls: type[Any]) -> Batch:
    happened = Statistics()
    program = simulated.program_for(cls, happened)
    outcome = run_execution(program, Swarm(simulated.name), Bounds())
    failure = None
    if outcome.violation is not None or outcome.error is not None:
        departures = departures_of(outcome.choices)
        # What follows from something that is not simulated is not a violation.
        violation = None if outcome.error else outcome.violation
        failure = Failure(simulated.seed, violation, departures, outcome.error)
    seen = (outcome.choices, happened.as_json(), happened.latencies_s, sorted(outcome.labels))
    digest = hashlib.sha256(repr(seen).encode()).digest()
    return Batch([digest], happened, outcome.labels, failure)


def _compared(simulation: Simulation, first_seed: int, done: Batch) -> str | None:
    """Runs the first seeds again; in words, which of them differed, or None."""
    again = range(first_seed, first_seed + min(SEEDS_COMPARED, len(done.digests)))
    for seed, one, other in zip(
        again, done.digests, play_batch(simulation, again).digests, strict=False
    ):
        if one != other:
            return f"nondeterminism found: seed {seed} was another execution when run again"
    return None


def _counterexample(simulation: Simulation, failure: Failure) -> Counterexample | None:
    assert failure.violation is not None
    simulated = simulation.seed(failure.seed)
    with guarded(), silenced():
        return shrunk(simulated, simulation.registry, failure.violation, failure.departures)


def schedule_text(simulation: Simulation, failure: Failure) -> str:
    """The schedule of the failed seed as it was run, not shrunk."""
    simulated = simulation.seed(failure.seed)
    return str(schedule_of(simulated, simulation.registry, failure.departures))
