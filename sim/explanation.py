"""A counterexample in words and lanes: what is violated, what departs, who did what, and where a
passing execution goes another way."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sim.execution import Departure, Outcome, Program, run_execution
from sim.schedule import Schedule
from sim.schedulers import Replay
from sim.world import TraceLine

WIDTH_MAX = 100
LINES_MAX = 40
DEPARTURES_MAX = 6
LANES_MAX = 12
# How many executions the search for a passing neighbour may take.
NEIGHBOURS_MAX = 60

_TIME_WIDTH = 9
_TEXT_WIDTH_MIN = 36
_FIRST_LANES = ("outside", "log")


@dataclass(frozen=True, slots=True)
class Passing:
    """The nearest execution that passes: in words what it does otherwise, and its trace.

    outcome: None if none was found. tried: how many executions were looked at.
    """

    words: str
    outcome: Outcome | None
    tried: int


def nearest_passing(program: Program, schedule: Schedule, outcome: Outcome) -> Passing:
    """Without one of the departures, the last first; or with one more, the last choice first."""
    tried = 0
    for candidate, words in _neighbours(schedule, outcome):
        if tried == NEIGHBOURS_MAX:
            break
        tried += 1
        departures = Replay(candidate.departures, strict=False)
        other = run_execution(program, departures, schedule.bounds, traced=True)
        if other.violation is None and other.error is None:
            return Passing(words, other, tried)
    return Passing("", None, tried)


def explain(outcome: Outcome, schedule: Schedule, passing: Passing) -> str:
    """At most LINES_MAX lines of WIDTH_MAX columns, but for the schedule in the last of them."""
    violation = outcome.violation
    assert violation is not None
    head = _wrapped(f"violated at {violation.at:.3f} s: {violation.property}")
    if violation.detail:
        head += _wrapped(f"  seen: {violation.detail}")
    if violation.where:
        head.append(f"  checked in {violation.where}")
    head.append(f"departures ({len(outcome.departures)} in {len(outcome.choices)} choice points):")
    head += _departure_lines(outcome.departures)
    foot = [*_difference(outcome, passing), f"replay: onestream replay {schedule}"]
    left = LINES_MAX - len(head) - len(foot)
    lines = [*head, *_lanes(outcome.trace, left), *foot]
    return "\n".join([*map(_clipped, lines[:-1]), lines[-1]])


def words_of(departure: Departure) -> str:
    """What one departure is."""
    match departure.kind:
        case "clock":
            return f"the loop is {departure.chosen}"
        case "cancel":
            return departure.chosen
        case "thread":
            return f"«{departure.chosen}», and only then {departure.natural}"
        case "program":
            return f"{departure.chosen} (natural: {departure.natural})"
    if departure.chosen == "no more":
        return f"«{departure.natural}» does not land in this poll"
    return f"«{departure.chosen}» lands before «{departure.natural}»"


# ---- lanes -----------------------------------------------------------------------------------


def _lanes(trace: list[TraceLine], lines_max: int) -> list[str]:
    """A lane for each actor: what it did stands in its column, and may run over those after it."""
    lanes = _actors(trace)
    step = _lane_step(lanes)
    header = (
        " " * _TIME_WIDTH + "  " + "".join(f"{_name(name, step - 1):<{step}}" for name in lanes)
    )
    rows_max = max(lines_max - 2, 1)
    shown = trace
    if len(trace) > rows_max:
        # The end tells what went wrong, so it is the beginning that is cut.
        shown = trace[len(trace) - rows_max + 1 :]
    last_of = {_lane_of(line, lanes): row for row, line in enumerate(shown)}
    begun: set[str] = set()
    lines = ["what happened (virtual seconds, a lane for each actor):", header.rstrip()]
    if len(shown) < len(trace):
        lines.append(" " * _TIME_WIDTH + f"  … {len(trace) - len(shown)} lines before")
        earlier = trace[: len(trace) - len(shown)]
        begun = {_lane_of(line, lanes) for line in earlier}
    time_before = ""
    for row, line in enumerate(shown):
        lane = _lane_of(line, lanes)
        begun.add(lane)
        bars = [
            "│" if each in begun and last_of.get(each, -1) > row else " "
            for each in lanes[: lanes.index(lane)]
        ]
        text = line.text if lane == line.actor else f"{line.actor}: {line.text}"
        time_now = f"{line.at:{_TIME_WIDTH}.3f}"
        shown_time = " " * _TIME_WIDTH if time_now == time_before else time_now
        time_before = time_now
        lines.append(f"{shown_time}  " + "".join(f"{bar:<{step}}" for bar in bars) + text)
    return lines


def _actors(trace: list[TraceLine]) -> list[str]:
    """The lanes from left to right: the world's first, then by their first line; the least
    involved share the last one."""
    counts = Counter(line.actor for line in trace)
    order = sorted(counts, key=lambda actor: (actor not in _FIRST_LANES, list(counts).index(actor)))
    if len(order) <= LANES_MAX:
        return order
    kept = sorted(order, key=lambda actor: (-counts[actor], order.index(actor)))[: LANES_MAX - 1]
    return [*(actor for actor in order if actor in kept), "others"]


def _lane_step(lanes: list[str]) -> int:
    widest = max((len(name) for name in lanes), default=0) + 2
    room = WIDTH_MAX - _TIME_WIDTH - 2 - _TEXT_WIDTH_MIN
    return max(3, min(widest, room // max(1, len(lanes) - 1)))


def _name(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _lane_of(line: TraceLine, lanes: list[str]) -> str:
    return line.actor if line.actor in lanes else lanes[-1]


# ---- the nearest passing execution -----------------------------------------------------------


def _neighbours(schedule: Schedule, outcome: Outcome) -> Iterator[tuple[Schedule, str]]:
    departures = schedule.departures
    for place in reversed(range(len(departures))):
        without = departures[:place] + departures[place + 1 :]
        words = words_of(outcome.departures[place])
        yield replace(schedule, departures=without), f"without the departure that {_lower(words)}"
    taken = dict(departures)
    for index in reversed(range(len(outcome.choices))):
        if index not in taken:
            more = tuple(sorted({**taken, index: 1}.items()))
            yield replace(schedule, departures=more), f"with one departure, at choice point {index}"


def _lower(words: str) -> str:
    return words if words.startswith("«") else words[:1].lower() + words[1:]


def _difference(outcome: Outcome, passing: Passing) -> list[str]:
    if passing.outcome is None:
        return [f"no passing execution is near: {passing.tried} were tried, each with one change"]
    title = f"nearest passing execution ({passing.words}):"
    here, there = _lines_of(outcome), _lines_of(passing.outcome)
    same = _same(here, there)
    if same == len(there) and here[same:] in ([], here[-1:]):
        # What is told is the same up to the violation; what is done is not.
        here, there = _steps_of(outcome), _steps_of(passing.outcome)
        same = _same(here, there)
    return [
        *_wrapped(title),
        f"  first difference, after {same} lines that are the same:",
        f"    here:  {_told(here, same)}",
        f"    there: {_told(there, same)}",
    ]


def _same(here: list[str], there: list[str]) -> int:
    """How many lines are the same at the beginning."""
    pairs = zip(here, there, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(there))


def _lines_of(outcome: Outcome) -> list[str]:
    return [f"{line.at:.3f} s, {line.actor}: {line.text}" for line in outcome.trace]


def _steps_of(outcome: Outcome) -> list[str]:
    """The callbacks in their order; times are the clock's readings, of a nanosecond each."""
    steps = (step.split(" ", 1) for step in outcome.steps)
    return [f"{float(at):.3f} s, {what}" for at, what in steps]


def _told(lines: list[str], number: int) -> str:
    return lines[number] if number < len(lines) else "nothing more"


# ---- lines -----------------------------------------------------------------------------------


def _departure_lines(departures: list[Departure]) -> list[str]:
    if not departures:
        return ["  none: it happens in natural order"]
    lines = [f"{departure.at:{_TIME_WIDTH}.3f}  {words_of(departure)}" for departure in departures]
    left_out = len(lines) - DEPARTURES_MAX
    if left_out > 0:
        lines[DEPARTURES_MAX - 1 :] = [" " * _TIME_WIDTH + f"  … and {left_out + 1} more"]
    return lines


def _wrapped(text: str) -> list[str]:
    """At most four lines; what is left out is told by an ellipsis."""
    lines = textwrap.wrap(text, WIDTH_MAX, subsequent_indent="  ", drop_whitespace=True)
    if len(lines) > 4:
        lines = [*lines[:3], lines[3][: WIDTH_MAX - 2] + " …"]
    return lines


def _clipped(line: str) -> str:
    return line if len(line) <= WIDTH_MAX else line[: WIDTH_MAX - 1] + "…"
