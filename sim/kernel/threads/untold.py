"""What a thread does to the loop without waking it, as asyncio's documentation forbids.

`Event.set`, `Future.set_result`, `Queue.put_nowait`, `Task.cancel`, `call_soon` and `call_later`
put something into the loop's queue or heap. The loop looks there before it waits in its selector,
and again once that has returned; only `call_soon_threadsafe` makes it return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOT_FOR_THREADS = "asyncio, which is not made for threads"
WITHIN_STEPS = "a step of the loop"
"""Beside files, what threads were not overtaken by: they went on between two steps alone."""
NO_FILES = frozenset({NOT_FOR_THREADS, WITHIN_STEPS})
"""Between whose lines such a thread may be overtaken as well."""

IN_TIME_OR_TOO_LATE = (
    "the loop looks into its queue after thread {} has put something there",
    "the loop is in its poll before thread {} puts something into its queue",
)
"""A thread and the loop within one instant, as names of options."""


@dataclass(frozen=True, slots=True)
class Untold:
    """callbacks: how many are in the ready queue of a loop that waits. until: when the poll ends of
    itself; a timer that was armed since changes nothing. thread: who did it last. where: in the
    program, of a traced execution.
    """

    callbacks: int
    until: float
    thread: str
    where: str | None

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next."""
        return self.callbacks, self.until

    def words(self) -> str:
        where = "" if self.where is None else f" in {self.where}"
        return (
            f"thread {self.thread} gave the loop something to do{where} without waking it: use "
            f"loop.call_soon_threadsafe(…) there"
        )
