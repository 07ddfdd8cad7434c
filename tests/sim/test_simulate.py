"""`onestream simulate`: determinism, verdicts, what it finds, and how its failures replay."""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from sim.bench.harness.log_capture import silenced
from sim.bench.simulation import run as run_module
from sim.bench.simulation.labels import labels_required
from sim.bench.simulation.profiles import CLIENTS, PROFILES, draw_plan
from sim.bench.simulation.run import Batch, Simulation, SimulationReport, make_simulation, simulate
from sim.bench.simulation.scenario import SimulatedSeed
from sim.bench.simulation.statistics import Statistics
from sim.bench.subjects import registry_class
from sim.bench.subjects.mutants import registry as mutants
from sim.bench.subjects.mutants import server as server_mutants
from sim.bench.subjects.mutants.base import Break
from sim.cli import main
from sim.commands.simulate_text import progress_words
from sim.executors.processes import processes
from sim.kernel.schedule import ChoicePoint, Option, Schedule
from sim.schedulers import Swarm
from tests.executed import executed
from tests.sim.fresh_processes import printed_in_fresh_processes

pytestmark = pytest.mark.once

OWN = "tests.sim.own_registries"
ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str) -> tuple[int, str]:
    """The exit code of `onestream simulate …`, and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        code = main(("simulate", *arguments))
    return code, printed.getvalue()


def simulation(level: str, registry: str = "production", client: str = "both") -> Simulation:
    return make_simulation(level=level, registry=registry, profile=None, client=client)


def told(report: SimulationReport) -> dict[str, Any]:
    """All of a report but how long it took."""
    found = report.as_json()
    del found["seconds"], found["seeds_per_second"]
    return found


# ---- the same seed is the same execution -----------------------------------------------------


@pytest.mark.socket
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.thorough
def test_processes_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many processes work, and however they are made, the report is the same."""
    monkeypatch.setattr(run_module, "SEEDS_PER_BATCH", 2)
    alone = simulate(simulation("server"), seeds=6)
    context = multiprocessing.get_context(method)
    together = simulate(simulation("server"), seeds=6, executor=processes(2, context))
    assert told(together) == told(alone)
    assert alone.verdict == "passed"


@pytest.mark.socket
def test_a_failure_is_the_same_with_more_processes() -> None:
    """The first seed that fails is reported, also where a later one failed before it."""
    suspect = simulation("registry", "quick_fix")
    assert told(simulate(suspect, seeds=60, executor=processes(2))) == told(
        simulate(suspect, seeds=60)
    )


TRACE_HASHES = """
import sys
from sim.bench.harness.log_capture import silenced
from sim.schedulers import Swarm
from sim.bench.simulation.run import make_simulation
from sim.bench.subjects import registry_class
from tests.executed import executed
for level in ("registry", "server"):
    made = make_simulation(level=level, registry="production", profile=None, client="both")
    for seed in range(2):
        simulated = made.seed(seed)
        program = simulated.program_for(registry_class("production"))
        with silenced():
            outcome = executed(program, Swarm(simulated.name), traced=True)
        print(simulated.name, outcome.trace_hash)
"""


@pytest.mark.socket
@pytest.mark.thorough
def test_traces_are_the_same_in_every_process() -> None:
    """A seed has one trace, whatever the process hashes by: callback by callback, to the ns."""
    (printed,) = printed_in_fresh_processes(TRACE_HASHES)
    hashes = {line.split()[1] for line in printed.splitlines()}
    assert len(hashes) == 4, "each seed is another execution"


@pytest.mark.parametrize("level", ["registry", "server"])
def test_a_seed_does_not_depend_on_its_run(level: str) -> None:
    """A seed alone, with its profile and client named, is the one of the long run."""
    long_run = simulation(level)
    for seed in (3, 12, 21):
        simulated = long_run.seed(seed)
        alone = make_simulation(
            level=level,
            registry="production",
            profile=simulated.profile.name,
            client=simulated.client,
        )
        assert alone.seed(seed) == simulated


def test_what_differs_from_run_to_run_is_found() -> None:
    """A registry that keeps state between executions gets no verdict, but the seed."""
    report = simulate(simulation("registry", f"{__name__}:Fickle"), seeds=8)
    assert report.verdict == "inconclusive"
    assert "nondeterminism found: seed 0" in report.reason


class Fickle(registry_class("production")):  # type: ignore[misc]
    """Takes a step more in each execution."""

    executions = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        type(self).executions += 1
        self.extra = self.executions

    async def register(self, entry: Any) -> Any:
        import asyncio

        stream = await super().register(entry)
        if entry["session_id"].endswith("s1"):
            await asyncio.sleep(self.extra / 100)
        return stream


# ---- what it finds ---------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [8, pytest.param(48, marks=pytest.mark.thorough)])
def test_production_passes_at_server_level(seeds: int) -> None:
    """The production server keeps its promises under every profile, and heals."""
    report = simulate(simulation("server"), seeds=seeds)
    assert report.verdict == "passed", report.reason
    counts = report.happened.counts
    assert counts["healed, and answered"] > 2 * seeds
    assert counts["superseded"] > seeds
    assert report.happened.faults.total() > seeds


@pytest.mark.thorough
def test_production_passes_at_registry_level() -> None:
    """Long enough to be asked for its labels, the production registry passes."""
    report = simulate(simulation("registry"), seeds=run_module.LABELS_FROM_SEEDS)
    assert report.verdict == "passed", report.reason
    assert report.happened.counts["detached"] > 50
    assert report.happened.counts["refused"] > 5


@pytest.mark.parametrize("level", ["registry", "server"])
@pytest.mark.parametrize("registry", ["original", "quick_fix"])
def test_published_registries_are_refuted(level: str, registry: str) -> None:
    """Within a hundred seeds, with a small counterexample that replays by its text."""
    report = simulate(simulation(level, registry), seeds=100)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.failure is not None
    if level == "server":
        assert report.counterexample.property.startswith("S3 no_silent_overlap")
    schedule = Schedule.parse(report.counterexample.schedule)
    kept = SimulatedSeed.named(schedule.subject.split(":")[1], level).plan
    assert len(kept.actions) <= 4, "shrunk: two or three prompts and what happens to them"
    assert len(schedule.departures) <= 2
    lines = report.counterexample.text.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 100 for line in lines[:-1])
    with redirect_stdout(io.StringIO()) as printed:
        assert main(("replay", report.counterexample.schedule)) == 1
    assert printed.getvalue().strip() == report.counterexample.text


@pytest.mark.parametrize(
    "name",
    ["LetsBothIn", "WaitsForEver", "KeepsEntries", "StopsTheNeighbours", "LocksWhileItWaits"],
)
def test_wrong_registries_are_refuted(name: str) -> None:
    """A stranger's wrong registry is refuted at registry level, where it is put by itself."""
    made = make_simulation(level=None, registry=f"{OWN}:{name}", profile=None, client="both")
    assert made.level == "registry"
    assert simulate(made, seeds=100).verdict == "refuted"


def test_a_right_registry_passes() -> None:
    """A stranger's right registry passes, although it is other than ours."""
    assert simulate(simulation("registry", f"{OWN}:Refusing"), seeds=100).verdict == "passed"


@pytest.mark.parametrize(
    ("mutant", "violated"),
    [
        (server_mutants.error_is_swallowed, "an answer that ends without an error"),
        (server_mutants.leaving_is_not_heard, "L2 prompt_stop: a client that leaves"),
        (server_mutants.silence_has_no_limit, "L6 silence"),
        (server_mutants.thread_is_not_counted, "S7 bounded"),
        (server_mutants.streams_of_other_keys_are_shown, "S6 isolation"),
        (server_mutants.send_has_no_limit, "L4 no_deadlock"),
        (server_mutants.keys_share_their_sessions, "liveness: once the faults are over"),
        pytest.param(
            server_mutants.shutdown_closes_nothing, "L5 shutdown", marks=pytest.mark.thorough
        ),
        (server_mutants.connection_is_not_closed_on_cancel, "S3 no_silent_overlap"),
        (server_mutants.strategy_is_not_read, "S8 identity"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_server_is_found(
    mutant: Break, violated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each judgement has a broken line of the server that it is the one to find."""
    mutant(monkeypatch)
    batch = run_module.play_batch(simulation("server"), range(60))
    assert batch.failure is not None
    assert batch.failure.violation is not None
    assert batch.failure.violation.property.startswith(violated)


@pytest.mark.parametrize(
    ("mutant", "violated"),
    [
        (mutants.second_is_let_in_beside_the_first, "S1 one_active"),
        (mutants.gate_is_never_shut, "S2 only_active_emits"),
        (mutants.grace_starts_anew, "L1 admission"),
        (mutants.limit_of_detached_streams_is_not_kept, "S7 bounded"),
        (mutants.close_waits_for_ever, "L5 shutdown"),
        (mutants.youngest_of_the_queue_is_next, "S4 oldest_next"),
        (mutants.strategy_is_not_handed_on, "S8 identity"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_registry_is_found(
    mutant: Break, violated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At registry level, too, what breaks a promise violates its property."""
    mutant(monkeypatch)
    batch = run_module.play_batch(simulation("registry"), range(60))
    assert batch.failure is not None
    assert batch.failure.violation is not None
    assert batch.failure.violation.property.startswith(violated)


# ---- verdicts --------------------------------------------------------------------------------


def test_a_run_that_reaches_too_little_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults that never occurred make the silence of a long run worth nothing."""
    monkeypatch.setattr(run_module, "LABELS_FROM_SEEDS", 4)
    report = simulate(simulation("server", client="async"), seeds=4)
    assert report.verdict == "inconclusive"
    assert "fault: cut" in report.labels_missing
    assert "fault: cut" in report.reason


def test_the_labels_are_those_of_the_profiles() -> None:
    """A run is asked for the faults of its profiles and clients, and for no others."""
    calm = labels_required("server", ["calm"], CLIENTS)
    assert not any(label.startswith("fault: ") for label in calm)
    hostile = ["hostile-upstream"]
    assert "detached" in labels_required("server", hostile, ["thread"])
    assert "fault: stuck lookup" not in labels_required("server", hostile, ["async"])


def test_an_interrupted_run_tells_what_it_saw() -> None:
    """Ctrl-C ends the run with the report so far: nothing is claimed."""

    def interrupt(done: Batch) -> None:
        raise KeyboardInterrupt

    report = simulate(simulation("registry"), seeds=100, on_progress=interrupt)
    assert report.verdict == "inconclusive"
    assert report.reason.startswith("it was interrupted")
    assert report.seeds == run_module.SEEDS_PER_BATCH


def test_a_spent_budget_is_inconclusive() -> None:
    """A run that had not the time for all its seeds says so."""
    code, printed = command("--level", "registry", "--seeds", "5000", "--budget", "0.01")
    assert code == 2
    assert "the budget is spent after 10 seeds" in printed


def test_what_is_not_simulated_is_an_error() -> None:
    """A registry that looks up a name gets no verdict."""
    report = simulate(simulation("registry", f"{__name__}:LooksUp"), seeds=3)
    assert report.verdict == "error"
    assert "simulated" in report.reason


class LooksUp(registry_class(f"{OWN}:Refusing")):  # type: ignore[misc]
    async def register(self, entry: Any) -> None:
        await asyncio.get_running_loop().getaddrinfo("example.org", 80)
        await super().register(entry)


# ---- the command -----------------------------------------------------------------------------


def test_the_command_passes() -> None:
    """A run without a violation exits with 0, shows the table, and claims no proof."""
    code, printed = command("--seeds", "4", "--profile", "calm", "--client", "async")
    assert code == 0
    assert "passed: no violation in 4 seeds" in printed
    assert "proved:" not in printed
    for row in ("prompts", "superseded", "latency of admission", "rows of the protocol taken"):
        assert f"\n{row} " in printed


def test_the_command_refutes() -> None:
    """A violation exits with 1, and is printed before it is shrunk: seed, command, schedule."""
    code, printed = command("--seeds", "100", "--registry", "quick_fix", "--level", "registry")
    assert code == 1
    head, shrinking, rest = printed.partition("shrinking …")
    assert shrinking
    assert "again:  onestream simulate --level registry --registry quick_fix" in head
    schedule = next(line for line in head.splitlines() if "replay: " in line).split()[-1]
    with redirect_stdout(io.StringIO()):
        assert main(("replay", schedule)) == 1
    again = next(line for line in head.splitlines() if "again: " in line)
    code, printed = command(*again.split()[3:], "--json")
    assert code == 1
    assert json.loads(printed)["failed_seed"] == json.loads(printed)["first_seed"]
    assert "refuted" in rest


def test_the_json_is_one_object() -> None:
    """With --json there is nothing else on stdout."""
    code, printed = command("--level", "registry", "--seeds", "8", "--first-seed", "5", "--json")
    found = json.loads(printed)
    assert code == 0
    assert found["verdict"] == "passed"
    assert found["first_seed"] == 5
    assert found["seeds"] == 8
    assert found["counterexample"] is None
    assert set(found["admission_latency_s"]) == {"p50", "p90", "p99", "max"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--profile", "stormy"),
        ("--registry", "nobody"),
        ("--registry", f"{OWN}:Refusing", "--level", "server"),
        ("--seeds", "0"),
        ("--first-seed", "-1"),
    ],
)
def test_bad_usage_is_an_error(arguments: tuple[str, ...]) -> None:
    """What there is not is refused with 3, and what there is instead."""
    with redirect_stderr(io.StringIO()) as told_why:
        try:
            code = main(("simulate", *arguments))
        except SystemExit as exc:
            code = int(str(exc.code))
    assert code == 3
    assert told_why.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "simulate-stormy-async-1",
        "simulate-busy-1",
        "simulate-busy-async-one",
        "simulate-busy-async-1-keep-0..3",
    ],
)
def test_a_bad_name_is_refused(name: str) -> None:
    """A schedule with a name of no seed is bad usage, not a pass."""
    with redirect_stderr(io.StringIO()):
        assert main(("replay", f"os2/server:{name}:production/00000000/natural")) == 3


def test_progress_says_how_many_seeds_and_faults() -> None:
    """Seeds, seeds per second, labels, and the most frequent faults."""
    happened = Statistics()
    happened.faults["cut"] = 3
    words = progress_words(Batch([b""] * 5, happened), 10, 2.0)
    assert words == "5/10 seeds, 2.5/s, 1 labels; faults 3: cut 3"


# ---- plans, scheduler, statistics ------------------------------------------------------------


def test_a_kept_plan_has_nothing_about_what_is_left_out() -> None:
    """Without its prompt, neither its client's leaving nor its stop is left."""
    for seed in range(20):
        plan = draw_plan(PROFILES["busy"], "server", "async", seed)
        assert plan.numbers == tuple(range(len(plan.actions)))
        for action in plan.actions:
            if action.of is not None:
                kept = plan.keeping(set(plan.numbers) - {action.of})
                assert action.number not in kept.numbers
        assert plan.keeping(plan.numbers) == plan


def test_a_name_finds_its_seed() -> None:
    """The name in a schedule is all that it takes to play the same plan again."""
    whole = SimulatedSeed("server", PROFILES["flaky"], "thread", 7)
    part = whole.keeping(whole.plan.numbers[::2])
    for simulated in (whole, part, whole.keeping(())):
        found = SimulatedSeed.named(simulated.name, "server")
        assert found.plan == simulated.plan


def test_an_empty_plan_is_played() -> None:
    """Nobody does anything: the server starts and stops."""
    nothing = SimulatedSeed("server", PROFILES["calm"], "async", 0).keeping(())
    with silenced():
        outcome = executed(nothing.program_for(registry_class("production")), Swarm("0"))
    assert outcome.violation is None


def test_every_profile_draws_every_fault_of_its() -> None:
    """Over some seeds each fault of a profile is drawn; in calm there is none."""
    for profile in PROFILES.values():
        drawn = set()
        for seed in range(150):
            plan = draw_plan(profile, "server", "thread", seed)
            drawn |= {action.how for action in plan.actions}
            kinds = {action.kind for action in plan.actions}
            drawn |= {fault for fault, kind in KINDS.items() if kind in kinds}
        assert set(profile.faults) <= drawn
        if not profile.faults:
            assert not drawn & set(KINDS)


KINDS = {
    "unreachable": "unreachable",
    "stuck lookup": "stuck lookup",
    "stops reading": "stop reading",
    "half sent": "half a prompt",
}


def test_the_swarm_departs_now_and_then() -> None:
    """The rate of departures is the seed's, for each kind of choice point; options are all met."""
    options = [Option("natural"), Option("a"), Option("b")]
    shares = []
    for seed in range(40):
        swarm = Swarm(str(seed))
        assert swarm.next_execution()
        chosen = [
            swarm.choose(ChoicePoint(i, "landing", options, 0.0, lambda _: (0, 1, 1)))
            for i in range(500)
        ]
        shares.append(sum(map(bool, chosen)) / len(chosen))
        if shares[-1] > 0.1:
            assert set(chosen) == {0, 1, 2}
        assert not swarm.next_execution()
    assert min(shares) == 0.0
    assert 0.15 < max(shares) < 0.25


def test_quantiles_are_nearest_ranks() -> None:
    """Of ten latencies the ninth is p90; of none there is nothing to tell."""
    happened = Statistics()
    assert set(happened.quantiles().values()) == {None}
    for tenth in range(10, 0, -1):
        happened.admitted(tenth / 10)
    assert happened.quantiles() == {"p50": 0.5, "p90": 0.9, "p99": 1.0, "max": 1.0}
    assert happened.counts["admitted after a wait"] == 10
