"""A counterexample as text: the violation, the departures, a chart of who did what, and where a
passing execution differs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from sim.counterexamples.chart import MARK, WIDTH_MAX, chart
from sim.kernel.execution import Outcome, Program, run_execution
from sim.kernel.recording import Departure
from sim.kernel.schedule import NO_MORE, Schedule
from sim.kernel.violation import Kind
from sim.schedulers import Replay

LINES_MAX = 40
DEPARTURES_MAX = 6
# How many lines the observation may take: each of its sentences, and all of them.
SEEN_LINES_MAX = 3
SEEN_ALL_LINES_MAX = 12
# How many executions the search for a passing neighbour may take.
NEIGHBOURS_MAX = 60


@dataclass(frozen=True, slots=True)
class Passing:
    """The nearest execution that passes. words: what it does differently.

    outcome: None if none was found. tried: how many executions were run.
    """

    words: str
    outcome: Outcome | None
    tried: int


@dataclass(frozen=True, slots=True)
class Step:
    """Departures that belong together: one, or those by which something is kept waiting.

    Waiting costs one departure, however long it takes and whatever lands meanwhile.
    """

    departures: tuple[Departure, ...]

    @property
    def is_wait(self) -> bool:
        return self.departures[0].chosen == NO_MORE.name

    @property
    def words(self) -> str:
        if not self.is_wait:
            return words_of(self.departures[0])
        polls = [each for each in self.departures if each.chosen == NO_MORE.name]
        kept = list(dict.fromkeys(name for each in polls for name in each.passed_over))
        verb = "is" if len(kept) == 1 else "are"
        words = f"{_listed(kept)} {verb} kept waiting for {_counted(len(polls), 'poll')}"
        landed = list(dict.fromkeys(each.chosen for each in self.departures if each not in polls))
        if landed:
            words += f", and {_listed(landed)} before {'it' if len(kept) == 1 else 'them'}"
        return words

    @property
    def time(self) -> str:
        first, last = (f"{self.departures[at].at:.3f}" for at in (0, -1))
        return first if first == last else f"{first}–{last}"


def nearest_passing(program: Program, schedule: Schedule, outcome: Outcome) -> Passing:
    """With one departure less, or one more: the one that is the same for longest.

    Two executions are the same up to the first choice that differs, so the last is tried first.
    """
    tried = 0
    for departures, words in _neighbours(outcome):
        if tried == NEIGHBOURS_MAX:
            break
        tried += 1
        replay = Replay(departures, strict=False)
        other = run_execution(program, replay, schedule.bounds, traced=True)
        if other.violation is None and other.error is None:
            return Passing(words or _what_more(outcome, other), other, tried)
        if other.violation is not None and other.violation.kind is Kind.ENDLESS_STEP:
            # Each such takes seconds.
            break
    return Passing("", None, tried)


def _how_to_replay(schedule: Schedule) -> str:
    # The command imports the program, which a script's cannot be.
    if schedule.subject.startswith("__main__:"):
        return f"replay: counterexample.replay(program), of the schedule {schedule}"
    return f"replay: onestream replay {schedule}"


def explain(outcome: Outcome, schedule: Schedule, passing: Passing) -> str:
    """At most LINES_MAX lines of WIDTH_MAX columns; only the schedule, the last, may be longer."""
    violation = outcome.violation
    assert violation is not None
    head = _wrapped(f"violated at {violation.at:.3f} s: {violation.property}", 4)
    head += _seen(violation.detail)
    if violation.where:
        head.append(f"  checked in {violation.where}")
    head += _departure_lines(outcome)
    foot, marked = _difference(outcome, passing)
    foot.append(_how_to_replay(schedule))
    head.append("what happened (virtual seconds, a column for each actor):")
    lines = [*head, *chart(outcome.trace, marked, LINES_MAX - len(head) - len(foot)), *foot]
    return "\n".join([*map(_clipped, lines[:-1]), lines[-1]])


# ---- departures ------------------------------------------------------------------------------


def steps_of(departures: list[Departure]) -> list[Step]:
    """The departures in their order; those that keep one event waiting make one step."""
    steps: list[Step] = []
    for each in departures:
        if steps and steps[-1].is_wait and each.cost == 0 and each.kind == "landing":
            steps[-1] = Step((*steps[-1].departures, each))
        else:
            steps.append(Step((each,)))
    return steps


def words_of(departure: Departure) -> str:
    """One departure in words."""
    chosen, natural = departure.chosen, departure.passed_over[0]
    match departure.kind:
        case "clock":
            return f"the loop is {chosen}"
        case "cancel":
            return f"{chosen} before its next step"
        case "program":
            what = chosen.partition(": ")[0] + ": "
            return f"{chosen} (natural: {natural.removeprefix(what)})"
    if chosen == NO_MORE.name:
        return Step((departure,)).words
    verb = "lands" if departure.kind == "landing" and " goes on at " not in chosen else "goes on"
    return f"{_named(chosen)} {verb} before {_listed(list(departure.passed_over))}"


def _named(name: str) -> str:
    """An event in quotes; a thread with the place where it is."""
    worker, goes_on, place = name.partition(" goes on at ")
    if goes_on:
        return f"{worker} (at {place})"
    return name.removesuffix(" goes on") if name == "the loop goes on" else f"«{name}»"


def _listed(names: list[str]) -> str:
    named = [_named(name) for name in names[:3]]
    if len(names) > 3:
        named.append(f"{len(names) - 3} more")
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def _counted(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def _departure_lines(outcome: Outcome) -> list[str]:
    points = _counted(len(outcome.choices), "choice point")
    if not outcome.departures:
        return [f"departures: none, it happens in natural order ({points})"]
    steps = steps_of(outcome.departures)
    shown = steps if len(steps) <= DEPARTURES_MAX else steps[: DEPARTURES_MAX - 1]
    lines = [f"departures: {outcome.cost}, at {len(outcome.departures)} of {points}"]
    numbered = [f"{at:3}. at {step.time} s: {step.words}" for at, step in enumerate(shown, 1)]
    lines += [line for each in numbered for line in _wrapped(each, 2, "     ")]
    if len(shown) < len(steps):
        lines.append(f"     … and {len(steps) - len(shown)} more")
    return lines


# ---- the nearest passing execution -----------------------------------------------------------


def _neighbours(outcome: Outcome) -> Iterator[tuple[tuple[tuple[int, int], ...], str]]:
    """Schedules, with words for what they change; without words where they depart once more."""
    steps = steps_of(outcome.departures)
    taken = {each.index: each.option for each in outcome.departures}
    for number, step in reversed(list(enumerate(steps, 1))):
        # A wait is shortened by its last choice, by its last two, and so on.
        for kept in reversed(range(len(step.departures))):
            gone = {each.index for each in step.departures[kept:]}
            left = tuple((index, option) for index, option in taken.items() if index not in gone)
            if kept:
                yield left, f"where {Step(step.departures[:kept]).words}"
            else:
                yield left, f"without departure {number}"
    for index in reversed(range(len(outcome.choices))):
        if index not in taken:
            for option in range(1, outcome.options[index]):
                yield tuple(sorted({**taken, index: option}.items())), ""


def _what_more(outcome: Outcome, other: Outcome) -> str:
    """In words, the departure that only the other execution has."""
    here = {each.index for each in outcome.departures}
    more = [each for each in other.departures if each.index not in here]
    return f"where, at {more[0].at:.3f} s, {words_of(more[0])}" if more else "with one more"


def _difference(outcome: Outcome, passing: Passing) -> tuple[list[str], int | None]:
    """The first difference; and the number of its line in the trace, if it is in the trace."""
    if passing.outcome is None:
        tried = _counted(passing.tried, "execution")
        return [
            f"no passing execution was found nearby ({tried} tried, each with one change)"
        ], None
    here, there = _lines_of(outcome), _lines_of(passing.outcome)
    same = _same(here, there)
    marked: int | None = same
    what = f"first difference ({MARK}) from"
    if same == len(there) and here[same:] in ([], here[-1:]):
        # The traces are the same up to the violation; the callbacks are not.
        here, there = _steps_of(outcome), _steps_of(passing.outcome)
        same, marked = _same(here, there), None
        what = f"first difference, at callback {same + 1}, from"
    return [
        *_wrapped(f"{what} the nearest passing execution, {passing.words}:", 2),
        f"  here:  {_line_of(here, same)}",
        f"  there: {_line_of(there, same)}",
    ], marked


def _same(here: list[str], there: list[str]) -> int:
    """How many lines are the same at the beginning."""
    pairs = list(zip(here, there, strict=False))
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))


def _lines_of(outcome: Outcome) -> list[str]:
    return [f"{line.at:.3f} s, {line.actor}: {line.text}" for line in outcome.trace]


def _steps_of(outcome: Outcome) -> list[str]:
    """The callbacks in their order; their times, which differ by nanoseconds, are rounded."""
    steps = (step.split(" ", 1) for step in outcome.steps)
    return [f"{float(at):.3f} s, {what}" for at, what in steps]


def _line_of(lines: list[str], number: int) -> str:
    return lines[number] if number < len(lines) else "nothing more"


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
