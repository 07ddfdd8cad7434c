"""Objects of asyncio belong to one process: who uses another one's is refused, with the place.

Processes of an execution share an interpreter, and so can reach what no real process could: a queue
that two hosts share would carry messages without a network, and prove what is false.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from sim.kernel.current import execution_of_this_thread
from sim.kernel.hashing import SimFuture, SimTask
from sim.kernel.loop import SimLoop
from sim.kernel.origin import forwards

NO_SHARED = (
    "processes share no objects of asyncio: let them talk by sockets, and announce what comes from "
    "outside in the process itself, by world.outside(…)"
)

_FUTURES = {
    SimFuture: ("set_result", "set_exception", "cancel", "add_done_callback"),
    SimTask: ("cancel", "add_done_callback"),
}
_FIRST_USER = {
    asyncio.Event: ("set", "clear", "wait"),
    asyncio.Queue: ("put", "put_nowait", "get", "get_nowait", "task_done", "join"),
    asyncio.Lock: ("acquire", "release"),
    asyncio.Condition: ("wait", "notify", "notify_all"),
    asyncio.Semaphore: ("acquire", "release"),
    asyncio.Barrier: ("wait", "reset", "abort"),
}


class HubOfOwners(Protocol):
    is_over: bool


class Ownership:
    """While it is in place: whose each object is, by who used it first, or whose loop made it."""

    def __init__(self, hub: HubOfOwners) -> None:
        self._hub = hub
        self._owners: WeakKeyDictionary[object, SimLoop] = WeakKeyDictionary()
        self._before: list[tuple[type, str, Any]] = []
        for cls, names in _FUTURES.items():
            self._replace(cls, names, _loop_of_future)
        for other, methods in _FIRST_USER.items():
            self._replace(other, methods, self._first_user)

    def end(self) -> None:
        """The classes are what they were."""
        for cls, name, before in self._before:
            if before is None:
                delattr(cls, name)
            else:
                setattr(cls, name, before)
        self._before.clear()

    def _replace(
        self, cls: type, names: tuple[str, ...], owner_of: Callable[[Any], object]
    ) -> None:
        for name in names:
            self._before.append((cls, name, vars(cls).get(name)))
            setattr(cls, name, self._checked(getattr(cls, name), owner_of))

    def _checked(
        self, method: Callable[..., Any], owner_of: Callable[[Any], object]
    ) -> Callable[..., Any]:
        @forwards
        @functools.wraps(method)
        def checked(used: Any, *args: Any, **kwargs: Any) -> Any:
            execution = execution_of_this_thread()
            user = None if execution is None else execution.loop
            if isinstance(user, SimLoop) and not self._hub.is_over:
                owner = owner_of(used)
                if isinstance(owner, SimLoop) and owner is not user:
                    user.refuse(
                        f"{_words_of(used)} of {_owner_in_words(owner)}, which "
                        f"{_owner_in_words(user)} uses by `{method.__name__}`",
                        NO_SHARED,
                    )
            return method(used, *args, **kwargs)

        return checked

    def _first_user(self, used: object) -> SimLoop | None:
        execution = execution_of_this_thread()
        user = None if execution is None else execution.loop
        if not isinstance(user, SimLoop):
            return None
        return self._owners.setdefault(used, user)


def _loop_of_future(used: asyncio.Future[Any]) -> object:
    return used.get_loop()


def _words_of(used: object) -> str:
    if isinstance(used, asyncio.Task):
        return f"the task {used.get_name()}"
    return f"an asyncio.{type(used).__name__}"


def _owner_in_words(owner: SimLoop) -> str:
    name = owner.lane.removesuffix(": ")
    return f"the process {name}" if name else "the program itself"
