"""Hooks for what happens in one execution; by default they do nothing.

The kernel calls them and knows none of its observers: the recording of a traced execution, the
history of a search that reduces, the reader of states. A scheduler may offer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from sim.kernel.environment import Arrival
from sim.kernel.hashing import SimFuture, SimTask
from sim.kernel.loop import SimLoop
from sim.kernel.notices import Notices
from sim.kernel.origin import forwards
from sim.kernel.schedule import ChoicePoint
from sim.kernel.threads.workers import Worker
from sim.kernel.world import World


class Observer(Notices):
    """Every hook has a default without effect; override what you need. One for each execution."""

    # Whether it needs more than `begin` and `end`. An execution without a follower is faster.
    follows = True

    def begin(self, loop: SimLoop, world: World) -> None:
        """Called before the program starts."""

    def end(self) -> None:
        """What follows is the draining, which is not explored."""

    def patched(self) -> AbstractContextManager[None]:
        """What has to be in place while the program runs."""
        return nullcontext()

    # -- the loop

    def new_future(self, loop: SimLoop) -> asyncio.Future[Any]:
        return SimFuture(loop=loop)

    @forwards
    def new_task(
        self, loop: SimLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        return SimTask(coro, loop=loop, **options)

    def poll_begins(self) -> None: ...

    def poll_ends(self) -> None: ...

    def scheduled(self, callback: Any) -> None:
        """The callback joins the ready queue."""

    def runs(self, handle: asyncio.Handle) -> None:
        """The next callback is taken from the ready queue; see `SimLoop.watch_steps`."""

    def thread_goes_on(self, worker: Worker) -> None:
        """Up to its next switch point, after which `thread_stands` is called."""

    def thread_stands(self, worker: Worker) -> None: ...

    def armed(self, timer: asyncio.TimerHandle) -> None:
        """The program, or asyncio for it, has called `call_later` or `call_at`."""

    # -- outside events and the clock

    def announced(self, arrival: Arrival) -> None: ...

    def lands(self, arrival: Arrival) -> None: ...

    def advances(self, to: float) -> None:
        """The clock is about to move, by more than it does at each reading."""

    # -- choices, and what the program declares

    def chose(self, point: ChoicePoint, option: int) -> None: ...


class Chooser(Protocol):
    """What an execution asks of a scheduler; see `sim/schedulers/base.py`."""

    def choose(self, point: ChoicePoint) -> int: ...

    def observer(self) -> Observer | None: ...
