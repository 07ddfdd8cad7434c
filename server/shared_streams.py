"""The streams of all workers, for the clients of each: what they tell one another of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from registry.lease_records import Message, Told
from registry.lease_state import LimitsDiffer
from registry.protocol import State
from server.archive import Record
from server.lines import line
from server.settings import Settings
from server.stores.directory import Directory, Entry, Seen
from server.stores.ending import end_tasks, say_if_failed
from server.stores.store import StoreRefused, StoreUnreachable

_logger = logging.getLogger("onestream.server")

# How long another worker has to say how its streams are; what it said before counts else.
ASK_S = 0.3
_LOOK_S = 0.02
# Of the running ones in a list: the others are shown as they were described last.
_ASKED_MAX = 50
_SLEW = "have it slewed (chronyd, ntpd) and not set while workers run"
_SET_FORWARD = (
    f"the clock of the store of sessions was set forward: leases that ran then were over for it "
    f"sooner than for their workers, so that two streams of a session may have worked at once; "
    f"{_SLEW}"
)
_SET_BACK = (
    f"the clock of the store of sessions was set back: what a dead worker held then is free later, "
    f"and nothing else is lost; {_SLEW}"
)
# Records that are yet to be described; where the store is away for long, the oldest are not.
_PENDING_MAX = 1000


class SharedStreams:
    """Describes this worker's streams to the others, and asks for theirs.

    view_of: what the owner of a record may see. wall_clock: seconds since 1970. look: asks the
    store what a prompt would, so that what has become of it is known before one does. clock: by
    which this worker's leases end, in seconds.
    """

    def __init__(
        self,
        directory: Directory,
        worker: str,
        *,
        settings: Settings,
        view_of: Callable[[Record], dict[str, Any]],
        wall_clock: Callable[[], float],
        look: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self.worker = worker
        self._directory = directory
        self._settings = settings
        self._view_of = view_of
        self._wall_clock = wall_clock
        self._look = look
        self._clock = clock
        # What the store's clock was ahead of ours when it was asked last: at least, at most.
        self._ahead_s: tuple[float, float] | None = None
        self._versions = itertools.count(1)
        # Those that have a state, and with them what the lease table calls their sessions.
        self._running: dict[str, tuple[Record, str, int]] = {}
        self._pending: dict[str, tuple[Record, str, int]] = {}
        self._woken = asyncio.Event()
        # Whether the store let nobody in when it was asked last.
        self._is_unsettled = False
        self._tasks: list[asyncio.Task[None]] = []

    # -- this worker's

    def start(self) -> None:
        for work in (self._describe_pending(), self._be_seen()):
            task = asyncio.create_task(work, name=f"streams-{self.worker}")
            task.add_done_callback(lambda done: say_if_failed(done, self.worker))
            self._tasks.append(task)

    async def end(self) -> None:
        """What is pending is described, if the store takes it at once."""
        last = asyncio.create_task(self._describe_last(), name=f"streams-last-{self.worker}")
        await end_tasks([last], patience_s=ASK_S)
        await end_tasks(self._tasks)

    async def _describe_last(self) -> None:
        with suppress(StoreUnreachable):
            while self._pending:
                await self._describe_next()

    def add(self, record: Record, session: str) -> None:
        """session: as the lease table knows it."""
        self._running[record.trace_id] = record, session, round(self._wall_clock() * 1000)
        self.changed(record.trace_id)

    def changed(self, trace_id: str) -> None:
        """It is to be described anew."""
        known = self._running.get(trace_id)
        if known is None:
            return
        self._pending[trace_id] = known
        if len(self._pending) > _PENDING_MAX:
            self._drop_one()
        self._woken.set()

    def _drop_one(self) -> None:
        """The oldest that goes on, as it is described again with its end; else the oldest."""
        goes_on = (name for name, (each, _, _) in self._pending.items() if each.ended_at is None)
        name = next(goes_on, next(iter(self._pending)))
        record, _, _ = self._pending.pop(name)
        if self._has_ended(record, self._view_of(record)):
            # One that could not be described with its end runs no more, and pends still.
            self._running.pop(name, None)

    @staticmethod
    def _has_ended(record: Record, view: Mapping[str, Any]) -> bool:
        """Its client has its end first, and its clean-up takes longer."""
        return record.ended_at is not None and view["state"] == "ENDED"

    async def _describe_pending(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                while self._pending:
                    await self._describe_next()
            except StoreUnreachable:
                await asyncio.sleep(ASK_S)
                self._woken.set()

    async def _describe_next(self) -> None:
        trace_id, (record, session, at_ms) = next(iter(self._pending.items()))
        view = self._view_of(record)
        ended = self._has_ended(record, view)
        if ended:
            self._running.pop(trace_id, None)
        version = next(self._versions)
        entry = Entry(
            record.owner, trace_id, self.worker, session, at_ms, version, ended, json.dumps(view)
        )
        known = self._pending.pop(trace_id)
        try:
            await self._directory.describe(
                entry,
                keep_ms=round(self._settings.archive_seconds * 1000),
                ended_max=self._settings.archive_max,
            )
        except StoreUnreachable:
            self._pending.setdefault(trace_id, known)
            raise

    async def _be_seen(self) -> None:
        lease_s = self._settings.lease_seconds
        within_ms = round((lease_s + self._settings.lease_margin_seconds) * 1000)
        while True:
            with suppress(StoreUnreachable):
                await self._be_seen_once(within_ms)
            # How it answers is noted, and said, where it is asked.
            with suppress(StoreUnreachable, StoreRefused, LimitsDiffer):
                await self._look()
            await asyncio.sleep(lease_s / 4)

    async def _be_seen_once(self, within_ms: int) -> None:
        begun = self._clock()
        seen = await self._directory.be_seen(self.worker, within_ms)
        self._compare_clocks(seen, begun, self._clock())
        if not seen.was_known:
            # What others know of its streams is lost with it; before the first there are none.
            # A list: where too many pend, one that has ended is dropped.
            for trace_id in list(self._running):
                self.changed(trace_id)
        if seen.unsettled_ms and not self._is_unsettled:
            sentence = (
                "the store of sessions is new, or has lost what it kept: prompts wait meanwhile, "
                "as a lease that it has forgotten may run"
            )
            for_s = seen.unsettled_ms / 1000
            _logger.warning(line("sessions_unsettled", sentence, worker=self.worker, for_s=for_s))
        self._is_unsettled = seen.unsettled_ms > 0

    def _compare_clocks(self, seen: Seen, begun: float, answered: float) -> None:
        """A step of the store's clock is told: it knows the time alone, and cannot see one."""
        now_s = seen.now_ms / 1000
        before, self._ahead_s = self._ahead_s, (now_s - answered, now_s - begun)
        # In a quarantine no lease of before counts; a replica's clock is another one.
        if before is None or seen.unsettled_ms:
            return
        forward_s, back_s = self._ahead_s[0] - before[1], before[0] - self._ahead_s[1]
        margin_s = self._settings.lease_margin_seconds
        if max(forward_s, back_s) > margin_s:
            by_s = round(max(forward_s, back_s), 3)
            sentence = _SET_FORWARD if forward_s > margin_s else _SET_BACK
            _logger.error(line("sessions_clock_set", sentence, worker=self.worker, by_s=by_s))

    # -- those of the others

    async def others(self, owner: str) -> list[Entry]:
        """Newest first. Raises StoreUnreachable."""
        found = await self._truth_of(await self._described(owner))
        running = [each for each in found if not each.ended][:_ASKED_MAX]
        anew = {each.trace_id: each for each in await self._asked_anew(owner, running)}
        return await self._truth_of([anew.get(each.trace_id, each) for each in found])

    async def last_described(self, owner: str) -> list[Entry]:
        """As `others`, but nobody is asked: those that run are as they were described last."""
        return await self._truth_of(await self._described(owner))

    async def other(self, owner: str, trace_id: str) -> Entry | None:
        """Raises StoreUnreachable."""
        known = await self.known(owner, trace_id)
        if known is None:
            return None
        (found,) = await self._truth_of([known])
        if found.ended:
            return found
        anew = await self._asked_anew(owner, [found])
        return (await self._truth_of(anew or [found]))[0]

    async def known(self, owner: str, trace_id: str) -> Entry | None:
        """As it was described last. Raises StoreUnreachable."""
        return next(iter(await self._directory.found(owner, [trace_id])), None)

    async def _described(self, owner: str) -> list[Entry]:
        found = await self._directory.described(owner)
        return [each for each in found if each.worker != self.worker]

    async def _asked_anew(self, owner: str, running: Sequence[Entry]) -> list[Entry]:
        """As their workers describe them once they are asked, if they do so in time."""
        for each in running:
            stream = f"{each.worker}/{each.trace_id}"
            await self._directory.tell(Message(stream, Told.SHOW))
        before = {each.trace_id: each.version for each in running}
        found: list[Entry] = []
        if before:
            async for _ in _looks():
                found = await self._directory.found(owner, list(before))
                if all(each.version != before[each.trace_id] for each in found):
                    break
        return found

    async def _truth_of(self, entries: Sequence[Entry]) -> list[Entry]:
        """A worker that is gone says nothing of the end of its streams: it is not waited for."""
        workers = {}.fromkeys(each.worker for each in entries if not each.ended)
        gone = {each for each in workers if not await self._directory.is_seen(each)}
        return [_lost(each) if not each.ended and each.worker in gone else each for each in entries]


def _lost(entry: Entry) -> Entry:
    view = entry.shown | {
        "state": "ENDED",
        "queue_position": None,
        "reason": "worker_lost",
        "message": f"worker {entry.worker}, which had the stream, is gone",
    }
    return replace(entry, ended=True, view=json.dumps(view))


def correct_stopped(views: Iterable[dict[str, Any]]) -> None:
    """Of a session's streams that say ACTIVE only the newest is: the others' rows are older.

    Each worker describes its own, at moments of its own; the session lets the next one in only once
    the one before has been stopped. views: newest first.
    """
    active: set[str] = set()
    for view in views:
        if view["state"] == State.ACTIVE.name:
            if view["session_id"] in active:
                view["state"] = State.STOPPING.name
            active.add(view["session_id"])


async def _looks() -> Any:
    for _ in range(round(ASK_S / _LOOK_S)):
        await asyncio.sleep(_LOOK_S)
        yield None
