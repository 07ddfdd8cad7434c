"""What `onestream simulate` prints: a progress line, what failed, and a table of what happened."""

from __future__ import annotations

from sim.bench.harness.observed_protocol import ROWS as TABLE_ROWS
from sim.bench.simulation.run import (
    Batch,
    Failure,
    Simulation,
    SimulationReport,
    schedule_text,
)
from sim.bench.simulation.statistics import ROWS
from sim.counterexamples.chart import WIDTH_MAX
from sim.exploration.tested_pythons import interpreter
from sim.tables import table_text

FAULTS_SHOWN = 5
_SAYS = """\
what a run says: random executions found nothing, which proves nothing; `onestream check` proves.
Each seed is a plan (users, latencies, faults) and a schedule with random departures, in virtual
time; every request is judged by S1-S8 and L1-L6, and after the last fault every session is
prompted once more and has to be answered. Replaced and not covered: as `check` says."""


def progress_words(done: Batch, seeds: int, seconds: float) -> str:
    """Seeds, seeds per second, the most frequent faults, and how many labels were reached."""
    count = len(done.digests)
    faults = ", ".join(f"{kind} {n}" for kind, n in done.happened.faults.most_common(FAULTS_SHOWN))
    labels = len(done.labels | done.happened.labels)
    return (
        f"{count}/{seeds} seeds, {count / seconds:.1f}/s, {labels} labels; "
        f"faults {done.happened.faults.total()}: {faults or 'none'}"
    )


def print_failure(simulation: Simulation, failure: Failure) -> None:
    """At once, so that a run that is broken off while it shrinks has reported its failure."""
    assert failure.violation is not None
    print(f"seed {failure.seed} violates {failure.violation.headline()}")
    if failure.violation.detail:
        print(f"  seen: {failure.violation.detail[:300]}")
    print(f"  again:  {simulation.command(failure.seed)}")
    print(f"  replay: onestream replay {schedule_text(simulation, failure)}")
    print("shrinking …", flush=True)


def print_report(report: SimulationReport) -> None:
    if report.counterexample is not None:
        print(f"\n{report.counterexample.text}\n")
    print_table(report)
    simulation = report.simulation
    clients = f"; clients {', '.join(simulation.clients)}" if simulation.level == "server" else ""
    print(f"profiles {', '.join(simulation.profiles)}{clients}")
    last = report.first_seed + report.seeds - 1
    print(f"seeds {report.first_seed} to {last}, digest {report.digest}; {interpreter()}")
    print(_SAYS)
    print(f"\n{simulation.registry} at {simulation.level} level: {report.verdict}: {report.reason}")


def print_table(report: SimulationReport) -> None:
    happened = report.happened
    rate = report.seeds / report.seconds if report.seconds else 0.0
    rows: list[tuple[str, str]] = [
        ("executions", f"{report.seeds} in {report.seconds:.1f} s: {rate:.1f} per second"),
        *((name, str(happened.counts[name])) for name in ROWS),
        ("latency of admission", _quantiles(report)),
        *_rows_taken(report),
        ("faults", _faults(report)),
    ]
    print(table_text(rows, width=WIDTH_MAX))


def _rows_taken(report: SimulationReport) -> list[tuple[str, str]]:
    taken = len(TABLE_ROWS & report.labels)
    # Only the production protocol has the table.
    return [("rows of the protocol taken", f"{taken} of {len(TABLE_ROWS)}")] if taken else []


def _faults(report: SimulationReport) -> str:
    faults = report.happened.faults
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items()) if count)
    return f"{faults.total()}: {kinds}" if kinds else "0"


def _quantiles(report: SimulationReport) -> str:
    values = report.happened.quantiles().items()
    return ", ".join(f"{name} {'-' if s is None else f'{s:.3f} s'}" for name, s in values)
