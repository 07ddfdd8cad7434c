"""Departures from natural order, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sim.counted import in_words
from sim.kernel.outcome import Outcome
from sim.kernel.recording import Departure, EventName
from sim.kernel.schedule import GOES_ON, HAS_TURN, NO_MORE

NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Step:
    """Departures that belong together: one, or those by which something is kept waiting.

    Waiting costs one departure, however long it takes and whatever lands meanwhile.
    """

    departures: tuple[Departure, ...]

    @property
    def is_wait(self) -> bool:
        return _is_wait(self.departures[0])

    @property
    def time(self) -> str:
        first, last = (f"{self.departures[at].at:.3f}" for at in (0, -1))
        return first if first == last else f"{first}–{last}"


def steps_of(departures: list[Departure]) -> list[Step]:
    """The departures in their order; those that keep one event waiting make one step."""
    steps: list[Step] = []
    for each in departures:
        if steps and steps[-1].is_wait and each.cost == 0 and each.kind == "landing":
            steps[-1] = Step((*steps[-1].departures, each))
        else:
            steps.append(Step((each,)))
    return steps


def _is_wait(departure: Departure) -> bool:
    return departure.chosen.name == NO_MORE.name


@dataclass(frozen=True, slots=True)
class Words:
    """shared: the names that several outside events have; these are numbered, as announced."""

    shared: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *outcomes: Outcome) -> Words:
        """For texts in which several executions are compared: an event has one name in all."""
        announced = [each.recording.announced_names for each in outcomes if each.recording]
        return cls(frozenset(name for names in announced for name in names if names[name] > 1))

    def name(self, event: EventName) -> str:
        return f"{event.name} #{event.number}" if event.name in self.shared else event.name

    def of_step(self, step: Step) -> str:
        """In the order in which it happens: what is kept waiting, and what lands meanwhile."""
        if not step.is_wait:
            return self.of_departure(step.departures[0])
        phases = groupby(step.departures, key=_is_wait)
        return "; then ".join(
            self._waiting(list(each)) if is_wait else self._landing(list(each))
            for is_wait, each in phases
        )

    def of_departure(self, departure: Departure) -> str:
        chosen, natural = departure.chosen, departure.passed_over[0]
        match departure.kind:
            case "clock":
                return f"the loop is {chosen.name}"
            case "fault" | "fault in a step":
                return chosen.name
            case "turn":
                process, other = (each.name.removesuffix(HAS_TURN) for each in (chosen, natural))
                return f"{process}{HAS_TURN} before {other}"
            case "poll" | "timers" | "meanwhile" | "reading":
                return chosen.name
            case "cancel":
                return f"{chosen.name} before its next step"
            case "network":
                return chosen.name
            case "program":
                what = chosen.name.partition(": ")[0] + ": "
                return f"{chosen.name} (natural: {natural.name.removeprefix(what)})"
        if _is_wait(departure):
            return self._waiting([departure])
        return self._landing([departure])

    def _waiting(self, polls: Sequence[Departure]) -> str:
        """Events that are kept waiting for as long are named together."""
        waited = Counter(each for poll in polls for each in poll.passed_over)
        together: dict[int, list[EventName]] = {}
        for event, count in waited.items():
            together.setdefault(count, []).append(event)
        (first, events), *others = together.items()
        verb = "is" if len(events) == 1 else "are"
        words = f"{self._listed(events)} {verb} kept waiting for {in_words(first, 'poll')}"
        return ", ".join(
            [
                words,
                *(f"{self._listed(each)} for {in_words(count, 'poll')}" for count, each in others),
            ]
        )

    def _landing(self, landings: Sequence[Departure]) -> str:
        """Events that land one after the other, before those that they have overtaken."""
        landed = [each.chosen for each in landings]
        overtaken = dict.fromkeys(event for each in landings for event in each.passed_over)
        left = [event for event in overtaken if event not in landed]
        is_thread = landings[0].kind != "landing" or GOES_ON in landed[0].name
        verb = "go on" if is_thread else "land"
        if len(landed) == 1:
            verb = "goes on" if is_thread else "lands"
        return f"{self._listed(landed)} {verb} before {self._listed(left or [*overtaken])}"

    def _listed(self, events: Sequence[EventName]) -> str:
        named = [self._quoted(event) for event in events[:NAMED_MAX]]
        if len(events) > NAMED_MAX:
            named.append(f"{len(events) - NAMED_MAX} more")
        return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))

    def _quoted(self, event: EventName) -> str:
        """An event in quotes; a thread with the place where it is."""
        thread, goes_on, place = event.shown.partition(GOES_ON)
        if goes_on:
            return f"{thread} (at {place})"
        if event.name == "the loop goes on":
            return event.name.removesuffix(" goes on")
        return f"«{self.name(event)}»"
