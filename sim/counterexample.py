"""A counterexample: the violated sentence, the schedule that leads there, and how to read it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from sim.execution import Departure, Outcome, Program, guarded, run_execution
from sim.schedule import Schedule
from sim.schedulers import Replay
from sim.world import TraceLine

WIDTH_MAX = 100
TRACE_LINES_MAX = 26
DEPARTURES_MAX = 6


@dataclass(frozen=True, slots=True)
class Counterexample:
    """property: the sentence that did not hold; schedule, text: for programs and for people."""

    property: str
    schedule: str
    text: str

    def replay(self, program: Program) -> Outcome:
        """Runs the schedule on the program, traced; `violation` is None if it did not come back.

        Raises ScheduleDoesNotFit if the program does not come by these choice points.
        """
        with guarded():
            return replay_schedule(program, Schedule.parse(self.schedule))

    def export(self, program: Program) -> str:
        """The text of a Python file that forces it on stock asyncio, without anything of ours.

        Raises ScheduleDoesNotFit, and NotExportable where no selector could bring it about.
        """
        from sim.export import export
        from sim.stock_sources import bundle_of

        bounds = Schedule.parse(self.schedule).bounds
        return export(self.replay(program), bundle_of(program), bounds, self.text)


def replay_schedule(program: Program, schedule: Schedule) -> Outcome:
    """One traced execution. Raises ScheduleDoesNotFit."""
    replay = Replay(schedule.departures)
    outcome = run_execution(program, replay, schedule.bounds, traced=True)
    replay.require_all_taken(len(outcome.choices))
    return outcome


def make_counterexample(outcome: Outcome, schedule: Schedule) -> Counterexample:
    """From a traced outcome with a violation."""
    assert outcome.violation is not None
    return Counterexample(outcome.violation.property, str(schedule), _text(outcome, schedule))


def _text(outcome: Outcome, schedule: Schedule) -> str:
    violation = outcome.violation
    assert violation is not None
    lines = _wrapped(f"violated at {violation.at:.3f} s: {violation.property}")
    if violation.detail:
        lines += _wrapped(f"  seen: {violation.detail}")
    lines.append(f"departures ({len(outcome.departures)} in {len(outcome.choices)} choice points):")
    lines += _departure_lines(outcome.departures)
    lines.append("what happened (virtual seconds, who, what):")
    lines += _trace_lines(outcome.trace)
    clipped = [line if len(line) <= WIDTH_MAX else line[: WIDTH_MAX - 1] + "…" for line in lines]
    return "\n".join([*clipped, f"replay: onestream replay {schedule}"])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH_MAX, subsequent_indent="  ", drop_whitespace=True)[:4]


def _departure_lines(departures: list[Departure]) -> list[str]:
    if not departures:
        return ["  none: it happens in natural order"]
    lines = [f"  {departure.at:9.3f}  {_words(departure)}" for departure in departures]
    left_out = len(lines) - DEPARTURES_MAX
    if left_out > 0:
        lines[DEPARTURES_MAX:] = [f"             … and {left_out} more"]
    return lines


def _words(departure: Departure) -> str:
    if departure.kind == "clock":
        return f"the loop is {departure.chosen}"
    if departure.kind == "cancel":
        return departure.chosen
    if departure.kind == "thread":
        return f"«{departure.chosen}», and only then {departure.natural}"
    if departure.kind == "program":
        return f"{departure.chosen} (natural: {departure.natural})"
    if departure.chosen == "no more":
        return f"«{departure.natural}» does not land in this poll"
    return f"«{departure.chosen}» lands before «{departure.natural}»"


def _trace_lines(trace: list[TraceLine]) -> list[str]:
    width = max((len(line.actor) for line in trace), default=0)
    lines = [f"  {line.at:9.3f}  {line.actor:<{width}}  {line.text}" for line in trace]
    left_out = len(lines) - TRACE_LINES_MAX
    if left_out > 0:
        # The end tells what went wrong, so it is the beginning that is cut.
        lines[:left_out] = [f"             … {left_out} lines before"]
    return lines
