"""Replays the choices of a schedule."""

from __future__ import annotations

from collections.abc import Iterable

from sim.kernel.errors import ScheduleDoesNotFit
from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import Once


class Replay(Once):
    """Runs one execution: the given departures, natural everywhere else.

    strict: a departure without its choice point, or without its option there, raises
    ScheduleDoesNotFit; else it is ignored, as a search for smaller schedules needs it.
    """

    name = "replay"
    covers = "one schedule"

    def __init__(self, departures: Iterable[tuple[int, int]], *, strict: bool = True) -> None:
        self._departures = dict(departures)
        self._strict = strict

    def choose(self, point: ChoicePoint) -> int:
        option = self._departures.get(point.index, 0)
        if option < len(point.options):
            return option
        if not self._strict:
            return 0
        raise ScheduleDoesNotFit(
            f"the schedule takes option {option} at choice point {point.index}, which has only "
            f"{len(point.options)} ({', '.join(each.name for each in point.options)}): it was "
            f"made with other code, another interpreter or other bounds"
        )

    def require_all_taken(self, choice_points: int) -> None:
        """Raises ScheduleDoesNotFit if the execution ended before the last departure."""
        beyond = [index for index in self._departures if index >= choice_points]
        if beyond:
            raise ScheduleDoesNotFit(
                f"the schedule departs at choice point {min(beyond)}, but the execution had only "
                f"{choice_points}: it was made with other code, another interpreter or other bounds"
            )
