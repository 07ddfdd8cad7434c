"""A schedule as text, of the bench or of a user's program: replayed, or exported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sim.bench.levels import is_of_the_bench
from sim.counterexamples.counterexample import Counterexample, make_counterexample, replay_schedule
from sim.exploration.subject import Subject
from sim.exploration.verdict import Verdict
from sim.export.file import export
from sim.export.sources import Bundle, NotExportable, bundle_of
from sim.kernel.errors import ScheduleDoesNotFit
from sim.kernel.execution import Program
from sim.kernel.guards import guarded
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Schedule

_SEEDS_TRIED = 4
_SEED_S = 60.0
_FIXED_SEED = "PYTHONHASHSEED"


def why_it_may_not_come_back(text: str) -> str:
    """What no schedule decides: the order of a set of strings, which is another in each process.

    A schedule that was made under some hash seed is tried under a few, each in a process of its
    own; not where this process has a fixed one, as these have.
    """
    if is_of_the_bench(Schedule.parse(text).subject):
        return ""
    seed = hash_seed_of(text)
    if seed is not None:
        return (
            f"The program depends on the order of a set of strings, which is another in each "
            f"process: with {_FIXED_SEED}={seed} the violation comes back. Replay it with that, "
            f"and explore with it to get a schedule that always fits"
        )
    return (
        f"Where it was violated before, the program may depend on the order of a set of strings, "
        f"which is another in each process: set {_FIXED_SEED}=0, say, to explore and to replay"
    )


def hash_seed_of(text: str) -> int | None:
    """One of a few with which a schedule of a user's program is violated; None if there is none, or
    where this process has a fixed one."""
    is_fixed = os.environ.get(_FIXED_SEED, "random") != "random"
    if is_fixed or is_of_the_bench(Schedule.parse(text).subject):
        return None
    return next((seed for seed in range(_SEEDS_TRIED) if _is_violated_with(seed, text)), None)


def _is_violated_with(seed: int, text: str) -> bool:
    command = [sys.executable, "-m", "sim.cli", "replay", text]
    environment = {**os.environ, _FIXED_SEED: str(seed)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_SEED_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == Verdict.REFUTED.exit_code


def replay(text: str) -> Counterexample | None:
    """Replays a schedule; None if the violation did not come back.

    Raises ValueError for a text that is not a schedule, ScheduleDoesNotFit for one that was made
    with other code.
    """
    schedule = Schedule.parse(text)
    with _replayed(schedule) as (program, outcome):
        if outcome.violation is None:
            return None
        return make_counterexample(program, outcome, schedule)


def exported(text: str) -> str:
    """The file that forces a schedule on stock asyncio.

    Raises ValueError for a text that is not a schedule, ScheduleDoesNotFit for one that was made
    with other code, NotExportable where no selector could bring it about, or where it is violated
    under another hash seed alone.
    """
    schedule = Schedule.parse(text)
    with _replayed(schedule) as (program, outcome):
        bundle = _bundle(schedule.subject, program)
        if outcome.violation is None and (seed := hash_seed_of(text)) is not None:
            raise NotExportable(
                f"in this process nothing is violated under the schedule, as the program depends "
                f"on the order of a set of strings; with {_FIXED_SEED}={seed} it is. Export it "
                f"with that, and run the file with that: {_FIXED_SEED}={seed} onestream export …"
            )
        description = (
            f"no violation: under this schedule every property holds\n"
            f"replay: onestream replay {text}"
        )
        if outcome.violation is not None:
            description = make_counterexample(program, outcome, schedule).text
    return export(outcome, bundle, schedule.bounds, description)


@contextmanager
def _replayed(schedule: Schedule) -> Iterator[tuple[Program, Outcome]]:
    """In the block production is broken if the schedule is a mutant's, and nothing is logged."""
    with subject_of(schedule.subject) as subject:
        if subject.digest != schedule.digest:
            raise ScheduleDoesNotFit(
                f"the schedule was made with the digest {schedule.digest}, the code here has "
                f"{subject.digest}: the code, the interpreter or a dependency is another. "
                f"{_how_to_find(schedule.subject)} again to get schedules that fit"
            )
        try:
            with guarded():
                outcome = replay_schedule(subject.program, schedule)
        except ScheduleDoesNotFit as exc:
            cause = why_it_may_not_come_back(str(schedule))
            raise ScheduleDoesNotFit(f"{exc}. {cause}" if cause else str(exc)) from None
        yield subject.program, outcome


# The bench is imported only for its own schedules: it needs the server, which a user's program may
# not.


@contextmanager
def subject_of(name: str) -> Iterator[Subject]:
    """What a schedule names; in the block a mutant's production is broken, and nothing is logged.

    Raises ValueError if there is none of this name.
    """
    if is_of_the_bench(name):
        from sim.bench.catalog import as_played

        with as_played(name) as subject:
            yield subject
    else:
        yield Subject.named(name)


def _how_to_find(name: str) -> str:
    """How to find schedules of it, for an error."""
    if not is_of_the_bench(name):
        return "Explore it"
    from sim.bench.entry import Entry

    return f"Run `onestream {Entry.parse(name).command}`"


def _bundle(name: str, program: Program) -> Bundle:
    if not is_of_the_bench(name):
        return bundle_of(program)
    from sim.bench.entry_source import bundle_of_bench

    return bundle_of_bench(name)
