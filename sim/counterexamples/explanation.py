"""A counterexample as text: the violation, the departures, a chart of who did what, and where a
passing execution differs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import perf_counter

from sim.counted import in_words
from sim.counterexamples.chart import MARK, WIDTH_MAX, chart
from sim.counterexamples.departures import Step, Words, steps_of
from sim.counterexamples.fact import Fact
from sim.counterexamples.rows import Row, first_difference, fitting, rows_of
from sim.counterexamples.steps import step_of
from sim.kernel.execution import Program, run_execution
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Schedule
from sim.kernel.violation import Kind, Violation
from sim.kernel.watchdog import seconds_left
from sim.schedulers import Replay

Change = int | Step | None

LINES_MAX = 40
DEPARTURES_MAX = 6
DEPARTURE_LINES_MAX = 3
# How many lines the observation may take: each of its sentences, and all of them.
SEEN_LINES_MAX = 3
SEEN_ALL_LINES_MAX = 12
# And what is told of the program's lines.
FACTS_LINES_MAX = 3
# How many executions the search for a passing neighbour may take, and how much of the budget: what
# was found is worth more than what it differs from.
NEIGHBOURS_MAX = 60
NEIGHBOURS_S = 10.0
NEIGHBOURS_PART = 0.25


@dataclass(frozen=True, slots=True)
class Passing:
    """The nearest execution that passes; outcome: None if none was found.

    change: the departure that it has not, by its number, or a wait that is shorter in it; None if
    it departs once more. tried: how many executions were run.
    """

    change: Change
    outcome: Outcome | None
    tried: int


def nearest_passing(program: Program, schedule: Schedule, outcome: Outcome) -> Passing:
    """With one departure less, or one more: the one that is the same for longest.

    Two executions are the same up to the first choice that differs, so the last is tried first.
    """
    tried, until = 0, perf_counter() + min(NEIGHBOURS_S, NEIGHBOURS_PART * seconds_left())
    for departures, change in _neighbours(outcome):
        if tried == NEIGHBOURS_MAX or perf_counter() > until:
            break
        tried += 1
        replay = Replay(departures, strict=False)
        other = run_execution(program, replay, schedule.bounds, traced=True)
        if other.violation is None and other.error is None:
            return Passing(change, other, tried)
        if other.violation is not None and other.violation.kind is Kind.ENDLESS_STEP:
            # Each such takes seconds.
            break
    return Passing(None, None, tried)


def _how_to_replay(schedule: Schedule) -> str:
    # The command imports the program, which a script's cannot be.
    if schedule.subject.startswith("__main__:"):
        return f"replay: counterexample.replay(program), of the schedule {schedule}"
    return f"replay: onestream replay {schedule}"


def explain(
    outcome: Outcome, schedule: Schedule, passing: Passing, facts: Sequence[Fact] = ()
) -> str:
    """At most LINES_MAX lines of WIDTH_MAX columns; only the schedule, the last, may be longer."""
    violation = outcome.violation
    assert violation is not None
    head = _wrapped(f"violated at {violation.at:.3f} s: {violation.headline()}", 4)
    head += _seen(violation.detail)
    if violation.where:
        head += _wrapped(f"  checked in {violation.where}", 2, "    ")
    head += _what_to_raise(violation.kind, schedule)
    head += _what_bounds_a_delay(outcome)
    head += _what_asks_who_was_cancelled(violation)
    head += _facts(facts)
    words = Words.of(outcome, *([passing.outcome] if passing.outcome else []))
    head += _departure_lines(outcome, words)
    rows = rows_of(outcome, words)
    foot, marked = _difference(outcome, rows, passing, words)
    foot.append(_how_to_replay(schedule))
    lines_max = LINES_MAX - len(head) - len(foot) - 1
    shown = fitting(rows, marked, lines_max - 1)
    are_of_tasks = sum(row.line.is_chatter for row in rows) == sum(
        row.line.is_chatter for row in shown
    )
    head.append(_above_the_chart(len(rows) - len(shown), are_of_tasks=are_of_tasks))
    lines = [*head, *_chart(shown, marked, lines_max), *foot]
    return "\n".join([*map(_clipped, lines[:-1]), lines[-1]])


def _above_the_chart(left_out: int, *, are_of_tasks: bool) -> str:
    of_tasks = " of tasks" * are_of_tasks
    steps = f"; {in_words(left_out, 'step')}{of_tasks} left out" if left_out else ""
    return f"what happened (virtual seconds, a column for each actor{steps}):"


def _chart(rows: list[Row], marked: Row | None, lines_max: int) -> list[str]:
    at = next((at for at, row in enumerate(rows) if row is marked), None)
    of_tasks = {at for at, row in enumerate(rows) if not row.is_recorded}
    return chart([row.line for row in rows], at, lines_max, of_tasks)


# ---- departures ------------------------------------------------------------------------------


def _departure_lines(outcome: Outcome, words: Words) -> list[str]:
    points = in_words(len(outcome.choices), "choice point")
    if not outcome.departures:
        return [f"departures: none, it happens in natural order ({points})"]
    steps = steps_of(outcome.departures)
    shown = steps if len(steps) <= DEPARTURES_MAX else steps[: DEPARTURES_MAX - 1]
    lines = [f"departures: {outcome.cost}, at {len(outcome.departures)} of {points}"]
    for at, step in enumerate(shown, 1):
        sentence = f"{at:3}. at {step.time} s: {words.of_step(step)}"
        lines += _wrapped(sentence, DEPARTURE_LINES_MAX, "     ")
    if len(shown) < len(steps):
        lines.append(f"     … and {len(steps) - len(shown)} more")
    return lines


# ---- the nearest passing execution -----------------------------------------------------------


def _neighbours(outcome: Outcome) -> Iterator[tuple[tuple[tuple[int, int], ...], Change]]:
    """Schedules, with what they change, as in Passing."""
    steps = steps_of(outcome.departures)
    taken = {each.index: each.option for each in outcome.departures}
    for number, step in reversed(list(enumerate(steps, 1))):
        # A wait is shortened by its last choice, by its last two, and so on.
        for kept in reversed(range(len(step.departures))):
            gone = {each.index for each in step.departures[kept:]}
            left = tuple((index, option) for index, option in taken.items() if index not in gone)
            if kept:
                yield left, Step(step.departures[:kept])
            else:
                yield left, number
    for index in reversed(range(len(outcome.choices))):
        if index not in taken:
            for option in range(1, outcome.options[index]):
                yield tuple(sorted({**taken, index: option}.items())), None


def what_differs(outcome: Outcome, other: Outcome, change: Change, words: Words) -> str:
    if isinstance(change, int):
        return f"without departure {change}"
    if change is not None:
        return f"where {words.of_step(change)}"
    here = {each.index for each in outcome.departures}
    more = [each for each in other.departures if each.index not in here]
    return (
        f"where, at {more[0].at:.3f} s, {words.of_departure(more[0])}" if more else "with one more"
    )


def _difference(
    outcome: Outcome, rows: list[Row], passing: Passing, words: Words
) -> tuple[list[str], Row | None]:
    """The first difference; and the row in which it is, if it is in one."""
    if passing.outcome is None:
        tried = in_words(passing.tried, "execution")
        return [
            f"no passing execution was found nearby ({tried} tried, each with one change)"
        ], None
    differs = what_differs(outcome, passing.outcome, passing.change, words)
    of_passing = f"the nearest passing execution, {differs}"
    rows_found = first_difference(rows, rows_of(passing.outcome, words))
    if rows_found is not None:
        row, other = rows_found
        what = f"first difference ({MARK}) from {of_passing}:"
        return _two(what, row.text, other.text if other is not None else None), row
    found = _first_other_callback(outcome, passing.outcome)
    if found is None:
        return _wrapped(f"{of_passing}, takes the same steps up to the violation", 2), None
    number, here, there = found
    return _two(f"first difference, at callback {number}, from {of_passing}:", here, there), None


def _two(what: str, here: str | None, there: str | None) -> list[str]:
    return [
        *_wrapped(what, 2),
        f"  here:  {here or 'nothing more'}",
        f"  there: {there or 'nothing more'}",
    ]


def _first_other_callback(
    here: Outcome, there: Outcome
) -> tuple[int, str | None, str | None] | None:
    """Where neither the trace nor any task differs up to the violation."""
    pairs = enumerate(zip_longest(_callbacks(here), _callbacks(there)), 1)
    return next(((at, ours, theirs) for at, (ours, theirs) in pairs if ours != theirs), None)


def _callbacks(outcome: Outcome) -> Iterator[str]:
    """In their order; their times, which differ by nanoseconds, are rounded."""
    return (step_of(step).words for step in outcome.steps)


# ---- lines -----------------------------------------------------------------------------------


def _seen(detail: str) -> list[str]:
    """The observation: a sentence, or several, as one for each who waits."""
    sentences = [line.removesuffix(";") for line in detail.splitlines()]
    if len(sentences) < 2:
        return _wrapped(f"  seen: {detail}", SEEN_LINES_MAX, "    ") if detail else []
    lines: list[str] = []
    for shown, sentence in enumerate(sentences):
        more = _wrapped(f"  - {sentence}", SEEN_LINES_MAX, "    ")
        if len(lines) + len(more) > SEEN_ALL_LINES_MAX:
            lines.append(f"  - … and {len(sentences) - shown} more")
            break
        lines += more
    return ["  seen:", *lines]


def _what_to_raise(kind: Kind, schedule: Schedule) -> list[str]:
    """What was broken off may have ended later: by which bound, and how that is raised where.

    Whose name is not `MODULE:PROGRAM` is explored by another command, which has no option for it.
    """
    if schedule.subject.count(":") > 1:
        return []
    bounds = schedule.bounds
    value: float
    match kind:
        case Kind.LIVELOCK:
            name, option, value = "spin_max", "--spin-max", 10 * bounds.spin_max
        case Kind.NO_END:
            name, option, value = "horizon_s", "--horizon", 10 * bounds.horizon_s
        case Kind.ENDLESS_STEP:
            name, option, value = "step_lines_max", "--step-lines-max", 10 * bounds.step_lines_max
        case _:
            return []
    return _wrapped(
        f"  if it would have ended later: explore(…, {name}={value:.10g}), "
        f"@pytest.mark.explore({name}={value:.10g}), or {option} {value:.10g}",
        2,
        "    ",
    )


def _what_bounds_a_delay(outcome: Outcome) -> list[str]:
    """Where a time limit was over while something was on its way for as long as one likes.

    Or all of the time, of who asks again and again.
    """
    violation = outcome.violation
    if violation is None or not outcome.is_late_without_bound:
        return []
    ends_late = violation.kind is Kind.NO_END and outcome.cost
    if not ends_late and "Timeout" not in violation.detail:
        return []
    return _wrapped(
        "  if nothing is on its way for so long: world.network.late_max_s = 1.0 in the program; "
        "without a bound, data and connections come later than any time limit",
        2,
        "    ",
    )


def _what_asks_who_was_cancelled(violation: Violation) -> list[str]:
    """Of a connection's task that was cancelled, asyncio before 3.13 asks what it has raised."""
    is_of_streams = f"callback ({_STREAMS}" in violation.detail
    if violation.kind is not Kind.CALLBACK or not is_of_streams:
        return []
    if "CancelledError" not in violation.detail:
        return []
    return _wrapped(
        "  asyncio asks the task of a connection for its exception, also where it was cancelled, "
        "and logs what that raises; Python 3.13 does not, nor is it raised where the function "
        "given to start_server catches CancelledError and returns",
        3,
        "    ",
    )


_STREAMS = "asyncio/streams.py"


def _facts(facts: Sequence[Fact]) -> list[str]:
    """As many as there is room for, the first in any case."""
    lines: list[str] = []
    for each in facts:
        more = _wrapped(f"{each.pattern.value}: {each.sentence}", FACTS_LINES_MAX)
        if len(lines) + len(more) <= FACTS_LINES_MAX:
            lines += more
    return lines


def _wrapped(text: str, lines_max: int, indent: str = "  ") -> list[str]:
    """Wrapped to at most `lines_max` lines; an ellipsis ends a text that is cut."""
    return textwrap.wrap(
        text,
        WIDTH_MAX,
        subsequent_indent=indent,
        max_lines=lines_max,
        placeholder=" …",
        break_on_hyphens=False,
    )


def _clipped(line: str) -> str:
    return line if len(line) <= WIDTH_MAX else line[: WIDTH_MAX - 1] + "…"
