"""Slots with a queue: what `OLLAMA_NUM_PARALLEL` bounds, without a clock and without tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Waiter:
    """One request's place in the queue for a slot, and then its hold on the slot."""

    def __init__(self) -> None:
        self.granted = False
        self._on_granted: Callable[[], None] | None = None

    def call_when_granted(self, on_granted: Callable[[], None]) -> None:
        """Call `on_granted` once: now if the slot is granted already, else when it is.

        It is called synchronously from `give_back`, so it may only wake something (set a future,
        succeed a SimPy event) and must not call the slots itself.
        """
        if self.granted:
            on_granted()
        else:
            self._on_granted = on_granted

    def grant(self) -> None:
        self.granted = True
        if self._on_granted is not None:
            self._on_granted()


class Slots:
    """`count` slots, granted first come, first served."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"there must be at least one slot, not {count}")
        self.count = count
        self._holders: list[Waiter] = []
        self._queue: deque[Waiter] = deque()
        self.was_asked = False

    @property
    def taken(self) -> int:
        return len(self._holders)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def ask(self) -> Waiter:
        """Join the queue. The answer is granted at once if a slot is free."""
        self.was_asked = True
        waiter = Waiter()
        if self.taken < self.count:
            self._grant(waiter)
        else:
            self._queue.append(waiter)
        return waiter

    def give_back(self, waiter: Waiter) -> None:
        """Leave the queue, or give the slot to the next in it. A second call has no effect."""
        if waiter in self._holders:
            self._holders.remove(waiter)
            if self._queue:
                self._grant(self._queue.popleft())
        elif waiter in self._queue:
            self._queue.remove(waiter)

    def _grant(self, waiter: Waiter) -> None:
        self._holders.append(waiter)
        waiter.grant()
