"""`GET /v1/streams?watch`: the own key's streams as they change, while the client stays.

Its messages are what `GET /v1/streams` answers: first the `list`, then each `stream` that has
changed, as it was then. A `list` that comes later takes the place of all that was said before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.archive import Archive, streams_in
from server.connection import ClientStalled, Connection
from server.errors import ApiError
from server.events import Events
from server.lines import line
from server.refusals import log_refused
from server.registries import Registry
from server.settings import Settings
from server.sse import DONE, PING, message
from server.stores.directory import Entry

_logger = logging.getLogger("onestream.server")

# Changes that a watcher may have before it; with more it gets the list in their place.
NOTED_MAX = 256
# Between two messages to one watcher: thousands of streams may end in as many turns of the loop.
# What a stream was meanwhile is not lost, and carries its own time.
PAUSE_S = 0.05
# How often it is looked at what no change tells: chunks that came, and streams of other workers.
LOOK_S = 1.0
# A list is as long as the archive, and longer.
PAUSE_AFTER_LIST_S = LOOK_S
_ENDED = "ENDED"

# Of the other workers' streams; raises ApiError (503).
Others = Callable[[str], Awaitable[Sequence[Entry]]]


class Watcher:
    """What one client is yet to hear of its owner's streams."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        # (trace id, state) and when that was, in order: at most NOTED_MAX. A stream never comes
        # back to a state; one that is noted again in the same has another reason, or its first.
        self.noted: dict[tuple[str, str], float] = {}
        # It gets the list next.
        self.is_behind = True
        self.is_over = asyncio.Event()
        self._woken = asyncio.Event()

    def note(self, trace_id: str, state: str, now: float) -> None:
        if self.is_behind:
            return
        self.noted.setdefault((trace_id, state), now)
        if len(self.noted) > NOTED_MAX:
            self.noted.clear()
            self.is_behind = True
        self._woken.set()

    def end(self) -> None:
        """It hears no more."""
        self.is_over.set()
        self._woken.set()

    async def wait(self, timeout_s: float) -> None:
        """Until something is noted, it is over, or that long."""
        await _wait(self._woken, timeout_s)
        self._woken.clear()


class Watches:
    """All watchers of this worker. While there are none, a change costs nothing."""

    def __init__(
        self,
        registry: Registry,
        archive: Archive,
        *,
        settings: Settings,
        list_of: Callable[[str], list[dict[str, Any]]],
        others: Others | None,
    ) -> None:
        """list_of: this worker's streams of an owner. others: where workers share a store."""
        self._registry = registry
        self._archive = archive
        self._watchers_max = settings.watchers_max
        self.list_of = list_of
        self.others = others
        # Whether there are no streams but these and the others.
        self.sees_all = settings.shares_sessions or not settings.sessions
        # By owner; none of them without a watcher, and of none more than watchers_max.
        self._watchers: dict[str, dict[Watcher, None]] = {}

    def open(self, owner: str) -> Watcher:
        """To be closed. Raises ApiError (429)."""
        watchers = self._watchers.get(owner, {})
        if len(watchers) >= self._watchers_max:
            raise ApiError(
                429,
                "too_many_watchers",
                f"{len(watchers)} connections watch the streams of this key, which is the limit "
                f"(JARVIS_WATCHERS_MAX); close one of them, or ask GET /v1/streams",
                headers={"retry-after": "5"},
            )
        watcher = Watcher(owner)
        self._watchers.setdefault(owner, {})[watcher] = None
        return watcher

    def close(self, watcher: Watcher) -> None:
        watchers = self._watchers[watcher.owner]
        del watchers[watcher]
        if not watchers:
            del self._watchers[watcher.owner]

    @property
    def count(self) -> int:
        return sum(map(len, self._watchers.values()))

    def changed(self, trace_id: str) -> None:
        """A stream may be in another state than before, or there is more to say of its end."""
        if not self._watchers:
            return
        now = asyncio.get_running_loop().time()
        known = self._registry.state_of(trace_id)
        state = _ENDED if known is None else known.name
        for owner, watchers in self._watchers.items():
            if self._archive.get(owner, trace_id, now) is not None:
                for watcher in watchers:
                    watcher.note(trace_id, state, now)

    def end(self) -> None:
        """No watcher hears more: the server is about to end."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.end()

    def views_of(
        self, owner: str, noted: Mapping[tuple[str, str], float]
    ) -> Iterator[dict[str, Any]]:
        """Each stream as it was when it was noted; its reason may have come later."""
        streams = streams_in(self._registry.snapshot())
        for (trace_id, state), at in noted.items():
            record = self._archive.get(owner, trace_id, at)
            if record is not None:
                yield record.view(streams, at, with_text=False) | {"state": state}

    def running_of(self, owner: str) -> list[dict[str, Any]]:
        """This worker's that have a state, as they are now, oldest first."""
        now = asyncio.get_running_loop().time()
        streams = streams_in(self._registry.snapshot())
        records = reversed(self._archive.of_owner(owner, now))
        return [
            record.view(streams, now, with_text=False)
            for record in records
            if record.trace_id in streams
        ]


@dataclass
class _Told:
    """What a client knows: of the streams that run here what is looked at, and the others'."""

    running: dict[str, tuple[Any, ...]]
    others: dict[str, str]
    # Why the others are not shown, if they are not.
    trouble: str | None = None


class WatchResponse(Response):
    """Tells one client of its owner's streams, until it leaves or the server ends.

    connections: as ChatResponse's.
    """

    def __init__(
        self,
        watches: Watches,
        owner: str,
        *,
        trace_id: str,
        settings: Settings,
        connections: MutableMapping[Connection, None],
        headers: Mapping[str, str],
        events: Events,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._watches = watches
        self._events = events
        self._owner = owner
        self._trace_id = trace_id
        self._settings = settings
        self._connections = connections
        self._head = headers
        self._told = _Told({}, {})
        # Of the other workers, as they were seen last.
        self._others: Sequence[Entry] = ()
        self._trouble: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(scope, receive, send, send_s=self._settings.send_seconds)
        try:
            watcher = self._watches.open(self._owner)
        except ApiError as exc:
            log_refused(self._events, scope, exc)
            await connection.error(exc)
            return
        tasks = [asyncio.create_task(connection.watch(_ending(watcher)), name=self._name("watch"))]
        self._connections[connection] = None
        try:
            if self._watches.others is not None:
                await self._see_others(self._watches.others)
                seeing = self._keep_seeing(self._watches.others)
                tasks.append(asyncio.create_task(seeing, name=self._name("others")))
            await self._tell(connection, watcher)
        except ClientStalled as exc:
            _logger.warning(line("watcher_stalled", str(exc), trace=self._trace_id))
            await connection.abort()
        finally:
            for task in tasks:
                task.cancel()
            del self._connections[connection]
            self._watches.close(watcher)

    def _name(self, work: str) -> str:
        return f"{work}-{self._trace_id}"

    async def _tell(self, connection: Connection, watcher: Watcher) -> None:
        await connection.begin(200, self._head)
        loop = asyncio.get_running_loop()
        ping_at = loop.time()
        while not watcher.is_over.is_set():
            is_list = watcher.is_behind
            news = b"".join(map(message, self._news(watcher)))
            if news or loop.time() >= ping_at:
                await connection.body(news or PING)
                ping_at = loop.time() + self._settings.ping_seconds
            pause_s = PAUSE_AFTER_LIST_S if is_list else PAUSE_S
            await _wait(watcher.is_over, min(pause_s, ping_at - loop.time()))
            await watcher.wait(min(LOOK_S, ping_at - loop.time()))
        await connection.body(message(_over().body()) + DONE)
        await connection.end()

    # -- what there is to say

    def _news(self, watcher: Watcher) -> list[dict[str, Any]]:
        """Takes what was noted."""
        if watcher.is_behind or self._trouble != self._told.trouble:
            watcher.is_behind = False
            watcher.noted.clear()
            return [self._whole()]
        noted, watcher.noted = watcher.noted, {}
        news = list(self._watches.views_of(self._owner, noted))
        news += self._looked_at({trace_id for trace_id, _ in noted})
        news += self._changed_others()
        return news

    def _whole(self) -> dict[str, Any]:
        own = self._watches.list_of(self._owner)
        self._told = _Told(
            {view["trace_id"]: _looks(view) for view in own},
            {each.trace_id: each.view for each in self._others},
            self._trouble,
        )
        sees_all = self._watches.sees_all and self._trouble is None
        views = (*own, *map(_view, self._others))
        return {
            "object": "list",
            "workers": "all" if sees_all else "this",
            "message": self._trouble,
            # Both are in order already, and `created` is in seconds.
            "data": sorted(views, key=lambda view: -view["created"]),
        }

    def _looked_at(self, noted: set[str]) -> Iterator[dict[str, Any]]:
        """The streams that run and have changed otherwise than by what was noted."""
        told, self._told.running = self._told.running, {}
        for view in self._watches.running_of(self._owner):
            trace_id = view["trace_id"]
            now = self._told.running[trace_id] = _looks(view)
            if trace_id not in noted and told.get(trace_id) != now:
                yield view

    def _changed_others(self) -> Iterator[dict[str, Any]]:
        told, self._told.others = self._told.others, {}
        for each in reversed(self._others):
            self._told.others[each.trace_id] = each.view
            if told.get(each.trace_id) != each.view:
                yield _view(each)

    # -- the other workers

    async def _keep_seeing(self, others: Others) -> None:
        """Of its own: what runs here is told meanwhile, however long the store takes."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._see_others(others)

    async def _see_others(self, others: Others) -> None:
        try:
            self._others, self._trouble = await others(self._owner), None
        except ApiError as exc:
            self._miss_others(exc.message)
        except Exception as exc:
            # Its task would end unseen, and what was seen last be shown for ever.
            said = f"those of others could not be read ({type(exc).__name__}; see the server's log)"
            if self._miss_others(said):
                _logger.exception(line("others_not_seen", str(exc), trace=self._trace_id))

    def _miss_others(self, why: str) -> bool:
        """Whether this is new to the client."""
        before, self._others = self._trouble, ()
        self._trouble = f"only streams of the worker that was asked are shown: {why}"
        return self._trouble != before


def _looks(view: Mapping[str, Any]) -> tuple[Any, ...]:
    return view["state"], view["chunks"], view["queue_position"], view["reason"]


def _view(entry: Entry) -> dict[str, Any]:
    view = entry.shown
    del view["text"]
    return view


def _over() -> ApiError:
    return ApiError(503, "shutting_down", "the server is shutting down; watch its successor")


def _ending(watcher: Watcher) -> Callable[[], Awaitable[None]]:
    async def end() -> None:
        watcher.end()

    return end


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
