"""Registries with the note's three methods as its reader would write them, each with one flaw.

`tests/sim/test_client.py` gives them to the most general client, which has to refute each, by the
property in `FLAWED`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from tests.sim.registries.correct import (
    GRACE_S,
    Closes,
    Events,
    Generations,
    LockPerSession,
    Queued,
    TooLate,
    is_over,
    stop,
)

Entry = Mapping[str, Any]


class StopsThePresent(LockPerSession):
    """A stop of a name that is over hits the stream that its session has now."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, str | None] = {}

    async def register(self, entry: Entry) -> None:
        self.sessions[entry["trace_id"]] = entry["session_id"]
        await super().register(entry)

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        session_id = self.sessions.get(trace_id) or ""
        present = self.entries.get(self.holders.get(session_id, trace_id))
        return present is not None and stop(present)


class StopsThePresentInSecret(StopsThePresent):
    """The same, and it answers that it has stopped nothing."""

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        stopped = await super().cancel(trace_id, reason)
        return stopped and trace_id in self.entries


class RaisesTheOldFailure(LockPerSession):
    """It awaits the older stream, whose clean-up raises, and so does the newcomer's register."""

    async def make_room(self, session_id: str) -> None:
        holder = self.entries.get(self.holders.get(session_id, ""))
        if holder is not None:
            stop(holder)
            try:
                async with asyncio.timeout(GRACE_S):
                    await asyncio.shield(holder["task"])
            except asyncio.CancelledError:
                if not holder["task"].done():
                    raise
            except TimeoutError:
                raise TooLate(f"the older stream of {session_id} does not end") from None


class RefusesAfterAFailure(LockPerSession):
    """The same, in the words of a refusal of its own."""

    async def make_room(self, session_id: str) -> None:
        holder = self.entries.get(self.holders.get(session_id, ""))
        await super().make_room(session_id)
        if holder is not None and not holder["task"].cancelled() and holder["task"].exception():
            raise TooLate("the older stream has failed")


class RaisesTheOldCancel(LockPerSession):
    """It awaits the older stream, whose cancel comes out of the newcomer's register."""

    async def make_room(self, session_id: str) -> None:
        holder = self.entries.get(self.holders.get(session_id, ""))
        if holder is not None and not is_over(holder):
            stop(holder)
            done, _ = await asyncio.wait({holder["task"]}, timeout=GRACE_S)
            if not done:
                raise TooLate(f"the older stream of {session_id} does not end")
            if holder["task"].cancelled():
                holder["task"].result()


class SharesNoSession(Generations):
    """Prompts without a session share the session None."""

    async def register(self, entry: Entry) -> None:
        named = {**entry, "session_id": entry["session_id"] or "default"}
        await super().register(named)


class IgnoresThatItsCallerLeft(Generations):
    """While it waits a cancel is taken for the end of the older stream."""

    async def outwait(self, session_id: str, number: int) -> None:
        try:
            await super().outwait(session_id, number)
        except asyncio.CancelledError:
            await asyncio.sleep(GRACE_S / 10)


class EndsTheSession(Events):
    """The end of a stream ends whatever stream its session has by then."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, str | None] = {}

    async def register(self, entry: Entry) -> None:
        await super().register(entry)
        self.sessions[entry["trace_id"]] = entry["session_id"]

    async def pop(self, trace_id: str) -> None:
        await super().pop(trace_id)
        session_id = self.sessions.get(trace_id)
        for name, place in [*self.places.items()]:
            if session_id and place.entry["session_id"] == session_id:
                del self.places[name]


class RaisesForTheUnknown(Events):
    """A stop or an end of a name that is not there is a KeyError."""

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        return stop(self.places[trace_id].entry)


class EndsOnlyOnce(Events):
    """The second report of an end is a KeyError."""

    async def pop(self, trace_id: str) -> None:
        self.places.pop(trace_id).ended.set()


class StopsNothing(Events):
    """A stop sets a mark that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: set[str] = set()

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        if trace_id in self.places:
            self.marked.add(trace_id)
        return trace_id in self.places


class SaysItStoppedNothing(Events):
    """A stop stops its stream, and answers false."""

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        await super().cancel(trace_id, reason)
        return False


class AlwaysTrue(Events):
    """A stop answers true whatever it named."""

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        await super().cancel(trace_id, reason)
        return True


class ForgetsThatItWasCalledOff(LockPerSession):
    """A stop of a stream that waits answers true, and the stream goes on all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[str] = set()

    async def register(self, entry: Entry) -> None:
        self.waiting.add(entry["trace_id"])
        try:
            await super().register(entry)
        finally:
            self.waiting.discard(entry["trace_id"])

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        return trace_id in self.waiting or await super().cancel(trace_id, reason)


class WaitsForOneWhoLeft(Generations):
    """Each waits until the one before it was answered, and who leaves never says so."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, asyncio.Event] = {}

    async def register(self, entry: Entry) -> None:
        session_id, answered = entry["session_id"], asyncio.Event()
        before = self.last.get(session_id)
        if session_id:
            self.last[session_id] = answered
        if before is not None and session_id:
            await before.wait()
        try:
            await super().register(entry)
        except TooLate:
            answered.set()
            raise
        answered.set()


class LeavesItsMark(Generations):
    """One who leaves while it waits remains the newest of its session."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[str] = set()

    async def register(self, entry: Entry) -> None:
        session_id = entry["session_id"]
        if session_id and session_id in self.waiting:
            raise TooLate("another waits already")
        self.waiting.add(session_id or "")
        await super().register(entry)
        self.waiting.discard(session_id or "")


class DropsTheLockInUse(LockPerSession):
    """A stream that is done drops its session's lock, though others wait for it."""

    async def pop(self, trace_id: str) -> None:
        entry = self.entries.get(trace_id)
        await super().pop(trace_id)
        if entry is not None and entry["session_id"] in self.locks:
            self.locks[entry["session_id"]] = asyncio.Lock()


class WaitsForItsOwnEnd(Events):
    """Registered again it waits for its own end, which comes after the wait only."""

    async def outwait(self, session_id: str, entry: Entry) -> None:
        if entry["trace_id"] in self.places:
            await self.places[entry["trace_id"]].ended.wait()
        await super().outwait(session_id, entry)

    async def pop(self, trace_id: str) -> None:
        place = self.places.pop(trace_id, None)
        if place is not None and trace_id not in {e["trace_id"] for e in self.newest.values()}:
            place.ended.set()


class TakesTheNormalEndForNone(Queued):
    """It lets the next in when a stream was cancelled, and not when it returned as if not."""

    async def pop(self, trace_id: str) -> None:
        task = asyncio.current_task()
        holders = [line.holder for line in self.lines.values() if line.holder is not None]
        told = any(each["task"] is task and each["task"].cancelling() for each in holders)
        if told and task is not None and not self.is_unwinding():
            return
        await super().pop(trace_id)

    def is_unwinding(self) -> bool:
        return sys.exc_info()[0] is not None


class RenewsTheGrace(LockPerSession):
    """Each stop by name gives the older stream another grace."""

    def __init__(self) -> None:
        super().__init__()
        self.pressed = 0

    async def make_room(self, session_id: str) -> None:
        holder = self.entries.get(self.holders.get(session_id, ""))
        if holder is None or is_over(holder):
            return
        stop(holder)
        seen = -1
        while seen != self.pressed and not is_over(holder):
            seen = self.pressed
            await asyncio.wait({holder["task"]}, timeout=GRACE_S)
        if not is_over(holder):
            raise TooLate(f"the older stream of {session_id} does not end")

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        self.pressed += 1
        return await super().cancel(trace_id, reason)


class RaisesOnceClosed(Closes):
    """A close with a stream that goes on for longer than the grace raises."""

    async def close(self) -> None:
        await super().close()
        if not all(is_over(place.entry) for place in self.places.values()):
            raise TooLate("a stream does not end")


class ClosesOnlyOnce(Closes):
    """The second close is refused."""

    async def close(self) -> None:
        self.refuse_if_closed()
        await super().close()


class RaisesWhatItHasCancelled(Closes):
    """It awaits the streams that it has stopped, and their CancelledError comes out of close."""

    async def close(self) -> None:
        entries = [place.entry for place in self.places.values()]
        await super().close()
        for entry in filter(is_over, entries):
            await entry["task"]


class KnowsNobodyOnceClosed(Closes):
    """A stop that comes after the close is an error."""

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        self.refuse_if_closed()
        return await super().cancel(trace_id, reason)


class WaitsForeverOnceClosed(Closes):
    """A prompt that comes after the close has no answer."""

    async def register(self, entry: Entry) -> None:
        if self.is_closed:
            await asyncio.Event().wait()
        await super().register(entry)


class CancelsTheRepeated(Events):
    """To register what is registered already raises CancelledError, though nobody has left."""

    async def register(self, entry: Entry) -> None:
        if entry["trace_id"] in self.places:
            raise asyncio.CancelledError
        await super().register(entry)


class CancelsForTheUnknown(Events):
    """A stop of a name that is not there raises CancelledError."""

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        if trace_id not in self.places:
            raise asyncio.CancelledError
        return await super().cancel(trace_id, reason)


class CancelsTheSecondEnd(Events):
    """The second report of an end raises CancelledError."""

    async def pop(self, trace_id: str) -> None:
        if trace_id not in self.places:
            raise asyncio.CancelledError
        await super().pop(trace_id)


class CancelsWhoCloses(Closes):
    """Its close cancels the task that waits for it."""

    async def close(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await super().close()
        await asyncio.sleep(0)


_TRUE = "a cancel answers true only where a stream of its name is there"
_STOPS = "a cancel by name stops its stream at once"
_FAILED = "a newcomer is not refused because the stream before it failed"
_RAISES = "cancel, pop and close raise nothing, whatever became of the stream"

FLAWED: tuple[tuple[type[Any], str], ...] = (
    (StopsThePresent, _TRUE),
    (StopsThePresentInSecret, "S8 identity"),
    (RaisesTheOldFailure, _FAILED),
    (RefusesAfterAFailure, _FAILED),
    (RaisesTheOldCancel, "a register raises CancelledError only where"),
    (SharesNoSession, "S8 identity"),
    (IgnoresThatItsCallerLeft, "a register whose caller has left does not return"),
    (EndsTheSession, "S1 one_active"),
    (RaisesForTheUnknown, _RAISES),
    (EndsOnlyOnce, _RAISES),
    (StopsNothing, _STOPS),
    (SaysItStoppedNothing, "a cancel that answers false stops nothing"),
    (AlwaysTrue, _TRUE),
    (ForgetsThatItWasCalledOff, _STOPS),
    (WaitsForOneWhoLeft, "a session in which all is over takes the next prompt"),
    (LeavesItsMark, "L1 admission"),
    (DropsTheLockInUse, "S1 one_active"),
    (WaitsForItsOwnEnd, "L4 no_deadlock"),
    (TakesTheNormalEndForNone, "L3 no_leak"),
    (RenewsTheGrace, "L1 admission"),
    (RaisesOnceClosed, _RAISES),
    (ClosesOnlyOnce, _RAISES),
    (RaisesWhatItHasCancelled, _RAISES),
    (KnowsNobodyOnceClosed, _RAISES),
    (WaitsForeverOnceClosed, "L4 no_deadlock"),
    (CancelsTheRepeated, "a register raises CancelledError only where"),
    (CancelsForTheUnknown, _RAISES),
    (CancelsTheSecondEnd, _RAISES),
    (CancelsWhoCloses, _RAISES),
)
"""With the property that it violates."""
