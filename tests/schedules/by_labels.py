"""Replays departures that are written as labels, which outlive changes of the code."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sim.kernel.errors import ScheduleDoesNotFit
from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import Following, Once, Scheduler

_LINE = re.compile(r"(\w+\.py):(\d+)")


@dataclass(frozen=True, slots=True)
class LabelledDeparture:
    """One choice that is not natural, by the names that it has.

    kind: of the choice point. instead_of, take: the labels of its natural option and of the one
    that is taken. occurrence: at which of the choice points since the last departure that have
    both labels, counted from 1. times: at how many of these in a row.
    """

    kind: str
    instead_of: str
    take: str
    occurrence: int = 1
    times: int = 1

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> LabelledDeparture:
        """From a table of TOML. Raises ValueError for what is no departure."""
        try:
            departure = cls(**table)
        except TypeError as exc:
            raise ValueError(f"{dict(table)} is no departure: {exc}") from None
        if departure.occurrence < 1 or departure.times < 1:
            raise ValueError(f"{departure} counts occurrence and times from 1")
        return departure

    def as_toml(self) -> str:
        values = [
            f"{name} = {value if isinstance(value, int) else _quoted(value)}"
            for name, value in asdict(self).items()
            if name in ("kind", "instead_of", "take") or value != 1
        ]
        return "\n".join(["[[departures]]", *values])


class ByLabels(Once):
    """Runs one execution: the given departures in their order, natural everywhere else.

    files: those whose lines are switch points. A label names such a line by its text, not by its
    number. `require_all_taken` tells whether every departure was met.
    """

    name = "by labels"
    covers = "one schedule"

    def __init__(self, departures: Iterable[LabelledDeparture], files: Iterable[str] = ()) -> None:
        self._left = list(departures)
        self._labels = Labels(files)
        self._seen = 0

    def choose(self, point: ChoicePoint) -> int:
        if not self._left or point.kind != self._left[0].kind:
            return 0
        wanted = self._left[0]
        option = self._option(point, wanted)
        if option is None:
            return 0
        self._seen += 1
        if self._seen < wanted.occurrence:
            return 0
        if self._seen == wanted.occurrence + wanted.times - 1:
            self._left.pop(0)
            self._seen = 0
        return option

    def _option(self, point: ChoicePoint, wanted: LabelledDeparture) -> int | None:
        """Which option is the wanted one; None where the choice point is not."""
        names = [self._labels.of(option.name) for option in point.options]
        if names[0] != wanted.instead_of or wanted.take not in names[1:]:
            return None
        return names.index(wanted.take, 1)

    def require_all_taken(self) -> None:
        """Raises ScheduleDoesNotFit if the execution did not reach each departure."""
        if self._left:
            raise ScheduleDoesNotFit(
                f"{len(self._left)} departures were never met, the first of them {self._left[0]}, "
                f"of whose choice points {self._seen} were seen: the code has changed what its "
                f"label names; find it again with `onestream check`, or mend the label"
            )


class Labels:
    """The labels of options: their names, with the text of a line for its number."""

    def __init__(self, files: Iterable[str] = ()) -> None:
        self._files = {file.rpartition("/")[2]: file for file in files}

    def of(self, name: str) -> str:
        return _LINE.sub(self._text, name)

    def _text(self, found: re.Match[str]) -> str:
        file = self._files.get(found[1])
        if file is None:
            return found[0]
        return f"{found[1]} `{linecache.getline(file, int(found[2])).strip()}`"


class Labelling(Following):
    """Another scheduler for one execution, whose departures it tells as ByLabels takes them."""

    def __init__(self, scheduler: Scheduler, files: Iterable[str] = ()) -> None:
        super().__init__(scheduler)
        self._labels = Labels(files)
        # Each choice point: its kind, the labels of its options, and which was taken.
        self._points: list[tuple[str, list[str], int]] = []

    def choose(self, point: ChoicePoint) -> int:
        option = super().choose(point)
        names = [self._labels.of(each.name) for each in point.options]
        self._points.append((point.kind, names, option))
        return option

    def departures(self) -> list[LabelledDeparture]:
        """Those of the one execution that it has seen."""
        found: list[LabelledDeparture] = []
        since = 0
        for place, (kind, names, option) in enumerate(self._points):
            if option == 0:
                continue
            met = [
                at
                for at in range(since, place + 1)
                if self._points[at][0] == kind
                and self._points[at][1][0] == names[0]
                and names[option] in self._points[at][1][1:]
            ]
            departure = LabelledDeparture(kind, names[0], names[option], len(met))
            since = place + 1
            if found and departure == replace(found[-1], occurrence=1, times=1):
                found[-1] = replace(found[-1], times=found[-1].times + 1)
            else:
                found.append(departure)
        return found


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
