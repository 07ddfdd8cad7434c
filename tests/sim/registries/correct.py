"""Correct registries with the note's three methods, each of another design.

`tests/sim/test_client.py` gives them to the most general client, which has to prove them. A stream
that does not end within the grace stays, and the newcomer is refused: without a gate nothing else
keeps a session to one active stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

GRACE_S = 2.0
Entry = Mapping[str, Any]


class TooLate(Exception):
    """A newer prompt came, or the older stream does not end."""


def is_over(entry: Entry) -> bool:
    return bool(entry["task"].done())


def stop(entry: Entry) -> bool:
    """Tells the stream once; a second cancel would break its clean-up off."""
    return not entry["task"].cancelling() and bool(entry["task"].cancel())


class LockPerSession:
    """A lock for each session, held while the newcomer waits; one after the other has its turn."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.holders: dict[str, str] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.users: dict[str, int] = {}

    @asynccontextmanager
    async def locked(self, session_id: str) -> AsyncIterator[None]:
        """The lock is dropped by the last that uses it, and by none before."""
        lock = self.locks.setdefault(session_id, asyncio.Lock())
        self.users[session_id] = self.users.get(session_id, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self.users[session_id] -= 1
            if not self.users[session_id]:
                del self.users[session_id], self.locks[session_id]

    async def register(self, entry: Entry) -> None:
        session_id, trace_id = entry["session_id"], entry["trace_id"]
        if not session_id:
            self.entries[trace_id] = entry
            return
        async with self.locked(session_id):
            await self.make_room(session_id)
            self.entries[trace_id] = entry
            self.holders[session_id] = trace_id

    async def make_room(self, session_id: str) -> None:
        holder = self.entries.get(self.holders.get(session_id, ""))
        if holder is not None and not is_over(holder):
            stop(holder)
            await asyncio.wait({holder["task"]}, timeout=GRACE_S)
            if not is_over(holder):
                raise TooLate(f"the older stream of {session_id} does not end")

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        entry = self.entries.get(trace_id)
        return entry is not None and stop(entry)

    async def pop(self, trace_id: str) -> None:
        entry = self.entries.pop(trace_id, None)
        if entry is not None and self.holders.get(entry["session_id"]) == trace_id:
            del self.holders[entry["session_id"]]


class Generations:
    """Each register takes the next number; who is not the latest of its session gives up."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.latest: dict[str, int] = {}
        self.numbers = 0

    async def register(self, entry: Entry) -> None:
        session_id = entry["session_id"]
        if session_id:
            self.numbers += 1
            number = self.latest[session_id] = self.numbers
            try:
                await self.outwait(session_id, number)
            finally:
                if self.latest.get(session_id) == number:
                    del self.latest[session_id]
        self.entries[entry["trace_id"]] = entry

    async def outwait(self, session_id: str, number: int) -> None:
        older = [each for each in self.entries.values() if each["session_id"] == session_id]
        for each in older:
            stop(each)
        if tasks := [each["task"] for each in older if not is_over(each)]:
            await asyncio.wait(tasks, timeout=GRACE_S)
        if self.latest.get(session_id) != number:
            raise TooLate(f"a newer prompt came in {session_id}")
        if not all(map(is_over, older)):
            raise TooLate(f"the older stream of {session_id} does not end")

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        entry = self.entries.get(trace_id)
        return entry is not None and stop(entry)

    async def pop(self, trace_id: str) -> None:
        self.entries.pop(trace_id, None)


@dataclass(eq=False)
class Place:
    """A stream in its session; `ended` is set once it has gone."""

    entry: Entry
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Events:
    """A newcomer waits for an event that the end of the older stream sets."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.newest: dict[str, Entry] = {}

    async def register(self, entry: Entry) -> None:
        session_id = entry["session_id"]
        if session_id:
            self.newest[session_id] = entry
            try:
                await self.outwait(session_id, entry)
            finally:
                if self.newest.get(session_id) is entry:
                    del self.newest[session_id]
        self.places[entry["trace_id"]] = Place(entry)

    async def outwait(self, session_id: str, entry: Entry) -> None:
        for place in [*self.places.values()]:
            if place.entry["session_id"] != session_id:
                continue
            stop(place.entry)
            try:
                async with asyncio.timeout(GRACE_S):
                    await place.ended.wait()
            except TimeoutError:
                raise TooLate(f"the older stream of {session_id} does not end") from None
            if self.newest.get(session_id) is not entry:
                raise TooLate(f"a newer prompt came in {session_id}")

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        place = self.places.get(trace_id)
        return place is not None and stop(place.entry)

    async def pop(self, trace_id: str) -> None:
        place = self.places.pop(trace_id, None)
        if place is not None:
            place.ended.set()


class Shielded(Generations):
    """As the note waits, but shielded, for something that raises nothing of the older stream's."""

    async def outwait(self, session_id: str, number: int) -> None:
        older = [each for each in self.entries.values() if each["session_id"] == session_id]
        for each in older:
            stop(each)
            over = asyncio.ensure_future(asyncio.wait({each["task"]}))
            try:
                async with asyncio.timeout(GRACE_S):
                    await asyncio.shield(over)
            except TimeoutError:
                raise TooLate(f"the older stream of {session_id} does not end") from None
            finally:
                over.cancel()
            if self.latest.get(session_id) != number:
                raise TooLate(f"a newer prompt came in {session_id}")


@dataclass(eq=False)
class Line:
    """Who holds a session, and who waits for it: the oldest first."""

    holder: Entry | None = None
    waiting: deque[tuple[Entry, asyncio.Future[None]]] = field(default_factory=deque)


class Queued:
    """An explicit queue: a stream that ends lets the next in; a newcomer stops the holder."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.anonymous: dict[str, Entry] = {}

    async def register(self, entry: Entry) -> None:
        session_id = entry["session_id"]
        if not session_id:
            self.anonymous[entry["trace_id"]] = entry
            return
        line = self.lines.setdefault(session_id, Line())
        if line.holder is None or is_over(line.holder):
            line.holder = entry
            return
        stop(line.holder)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = entry, turn
        line.waiting.append(place)
        try:
            async with asyncio.timeout(GRACE_S * len(line.waiting)):
                await turn
        except BaseException as exc:
            self.give_up(session_id, line, place)
            if isinstance(exc, TimeoutError):
                raise TooLate(f"the older stream of {session_id} does not end") from None
            raise
        if line.waiting:
            stop(entry)

    def give_up(
        self, session_id: str, line: Line, place: tuple[Entry, asyncio.Future[None]]
    ) -> None:
        if place in line.waiting:
            line.waiting.remove(place)
        elif line.holder is place[0]:
            # It had its turn just now.
            self.let_in_the_next(session_id, line)

    def let_in_the_next(self, session_id: str, line: Line) -> None:
        line.holder = None
        while line.waiting and line.holder is None:
            entry, turn = line.waiting.popleft()
            if not turn.done():
                line.holder = entry
                turn.set_result(None)
        if line.holder is None:
            self.lines.pop(session_id, None)

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        holders = [line.holder for line in self.lines.values() if line.holder is not None]
        for entry in (*holders, *self.anonymous.values()):
            if entry["trace_id"] == trace_id and not is_over(entry):
                return stop(entry)
        return False

    async def pop(self, trace_id: str) -> None:
        self.anonymous.pop(trace_id, None)
        for session_id, line in [*self.lines.items()]:
            if line.holder is not None and line.holder["trace_id"] == trace_id:
                self.let_in_the_next(session_id, line)


class TaskPerSession:
    """A task for each session that is in use admits one after the other; it ends with the last."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.inboxes: dict[str, deque[tuple[Entry, asyncio.Future[None]]]] = {}
        self.admitters: set[asyncio.Task[None]] = set()

    async def register(self, entry: Entry) -> None:
        session_id = entry["session_id"]
        if not session_id:
            self.entries[entry["trace_id"]] = entry
            return
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if session_id in self.inboxes:
            self.inboxes[session_id].append((entry, answer))
        else:
            self.inboxes[session_id] = deque([(entry, answer)])
            admitter = asyncio.create_task(self.admit(session_id), name=f"admits {session_id}")
            self.admitters.add(admitter)
            admitter.add_done_callback(self.admitters.discard)
        try:
            await answer
        except asyncio.CancelledError:
            if answer.done() and self.entries.get(entry["trace_id"]) is entry:
                del self.entries[entry["trace_id"]]
            raise

    async def admit(self, session_id: str) -> None:
        inbox = self.inboxes[session_id]
        while inbox:
            entry, answer = inbox.popleft()
            if answer.done():
                continue
            refusal = await self.make_room(session_id)
            if answer.done():
                continue
            if refusal is not None:
                answer.set_exception(refusal)
            else:
                self.entries[entry["trace_id"]] = entry
                answer.set_result(None)
        del self.inboxes[session_id]

    async def make_room(self, session_id: str) -> TooLate | None:
        older = [each for each in self.entries.values() if each["session_id"] == session_id]
        for each in older:
            stop(each)
        if tasks := [each["task"] for each in older if not is_over(each)]:
            await asyncio.wait(tasks, timeout=GRACE_S)
        return None if all(map(is_over, older)) else TooLate(f"{session_id} does not end")

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        entry = self.entries.get(trace_id)
        return entry is not None and stop(entry)

    async def pop(self, trace_id: str) -> None:
        self.entries.pop(trace_id, None)


class Closes(Events):
    """It can be closed, which stops all streams, and refuses those that come or wait by then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    async def register(self, entry: Entry) -> None:
        self.refuse_if_closed()
        await super().register(entry)
        if self.is_closed:
            del self.places[entry["trace_id"]]
            self.refuse_if_closed()

    def refuse_if_closed(self) -> None:
        if self.is_closed:
            raise TooLate("the registry is closed")

    async def close(self) -> None:
        self.is_closed = True
        tasks = [each.entry["task"] for each in self.places.values() if not is_over(each.entry)]
        for place in self.places.values():
            stop(place.entry)
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)


CORRECT = (LockPerSession, Generations, Events, Shielded, Queued, TaskPerSession, Closes)
