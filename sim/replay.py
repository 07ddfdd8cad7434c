"""A schedule as text, of the bench or of a user's program: replayed, or exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sim.bench.levels import is_of_the_bench
from sim.counterexamples.counterexample import Counterexample, make_counterexample, replay_schedule
from sim.exploration.subject import Subject
from sim.export.file import export
from sim.export.sources import Bundle, bundle_of
from sim.kernel.errors import ScheduleDoesNotFit
from sim.kernel.execution import Outcome, Program, guarded
from sim.kernel.schedule import Schedule


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
    with other code, NotExportable where no selector could bring it about.
    """
    schedule = Schedule.parse(text)
    with _replayed(schedule) as (program, outcome):
        bundle = _bundle(schedule.subject, program)
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
    with _subject(schedule.subject) as subject:
        if subject.digest != schedule.digest:
            raise ScheduleDoesNotFit(
                f"the schedule was made with the digest {schedule.digest}, the code here has "
                f"{subject.digest}: the code, the interpreter or a dependency is another. "
                f"{_how_to_find(schedule.subject)} again to get schedules that fit"
            )
        with guarded():
            outcome = replay_schedule(subject.program, schedule)
        yield subject.program, outcome


# The bench is imported only for its own schedules: it needs the server, which a user's program may
# not.


@contextmanager
def _subject(name: str) -> Iterator[Subject]:
    """Raises ValueError if there is none of this name."""
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
