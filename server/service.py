"""The running service: shared by all requests, from the start-up until the shut-down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from registry import SessionsUnavailable, State
from registry.attempts import Attempt
from registry.lease_state import LimitsDiffer
from registry.patience import PatientTimeout
from server.answer import Answer
from server.archive import Archive, Record, streams_in
from server.body import Bodies
from server.buffer import Buffer
from server.connection import Connection
from server.errors import ApiError
from server.events import REGISTERED, Events
from server.lines import line
from server.memory import FreeMemory
from server.metrics import Metrics, exposition
from server.models import first_that_chats
from server.ollama import OllamaClient, seconds_since_1970
from server.ollama_async import AsyncOllama
from server.prompt import Prompt
from server.readiness import Readiness
from server.registries import Registry
from server.repeats import Repeats, Repetitions, StoreRepeats, says_it_repeats
from server.response import STREAM_HEADERS, ChatResponse
from server.security import Keys
from server.sessions import overruled, session_of, strategy_of
from server.settings import Settings
from server.shared_streams import SharedStreams, correct_stopped
from server.stores import wording
from server.stores.directory import Directory, Entry
from server.stores.leased_registry import LeasedRegistry
from server.stores.store import StoreRefused, StoreUnreachable
from server.stores.watched_store import StoreState
from server.strangers import Strangers
from server.stream_task import StreamTask
from server.watch import Watches, WatchResponse

if TYPE_CHECKING:
    from server.traces import Traces

# The part of the grace that a client that doesn't read may use once the server shuts down.
_HURRY_SHARE = 0.5
# uvicorn's next tick is 0.1 s away; then a connection has half a second for a last request.
_LOOKUPS_S = 0.7


class Service:
    """Made in the lifespan's start-up, in the event loop that serves.

    new_trace_id: draws the name of each request. wall_clock: seconds since 1970, for `created`.
    leased, directory: the registry once more, and what its store knows of all workers' streams,
    where the workers share a store.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        keys: Keys,
        registry: Registry,
        client: OllamaClient,
        lister: AsyncOllama,
        new_trace_id: Callable[[], str],
        wall_clock: Callable[[], float],
        leased: LeasedRegistry | None = None,
        directory: Directory | None = None,
        metrics: Metrics | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.settings = settings
        self.keys = keys
        self.strangers = Strangers(settings, keys)
        self.registry = registry
        self.metrics = metrics
        self._traces = traces
        self.events = Events(tuple(each.hear for each in (metrics, traces) if each is not None))
        self.events.listen_to(registry)
        self._repeats: Repetitions = (
            Repeats(window_s=settings.repeat_seconds, state_of=registry.state_of)
            if leased is None
            else StoreRepeats(leased)
        )
        self._readiness = Readiness(self._ask_all)
        self.new_trace_id = new_trace_id
        self.free_memory = FreeMemory()
        self.bodies = Bodies(
            values_max=settings.body_max_values, total_max_bytes=settings.bodies_max_bytes
        )
        self._client = client
        self._lister = lister
        self._wall_clock = wall_clock
        self._archive = Archive(records_max=settings.archive_max, age_s=settings.archive_seconds)
        # Exactly the chats that are being answered and who watches, oldest first; as keys, since a
        # shut-down goes through them, and the order of a set is that of addresses.
        self.connections: dict[Connection, None] = {}
        # The time limits of what else waits for somebody outside: a shut-down ends them at once.
        self._timeouts: dict[PatientTimeout, None] = {}
        # The registry's close, from the beginning of a shut-down on.
        self._closing: asyncio.Task[None] | None = None
        # Whether nothing at all is answered any more.
        self._is_shut = False
        self._leased = leased
        if leased is not None:
            leased.store.on_change = self._readiness.forget
        # Of all workers that share a store; None where there is one process.
        self._shared: SharedStreams | None = None
        if leased is not None and directory is not None:
            self._shared = SharedStreams(
                directory,
                leased.worker,
                settings=settings,
                view_of=self._view_of,
                wall_clock=wall_clock,
                look=leased.check,
                clock=leased.clock,
            )
        self.watches = Watches(
            registry,
            self._archive,
            settings=settings,
            list_of=self.streams,
            others=None if self._shared is None else self._others,
        )
        registry.on_change = self._changed

    def start(self) -> None:
        """Begins to tell other workers of the streams, where there are others."""
        if self._shared is not None:
            self._shared.start()

    # -- what the front asks

    @property
    def is_ending(self) -> bool:
        """Each answer from now on is its connection's last."""
        return self._closing is not None

    def check_open(self) -> None:
        """Raises ApiError (503) once the server is shutting down."""
        if self._is_shut:
            raise _shutting_down()

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[None]:
        """As PatientTimeout; a shut-down ends it as well, with ApiError (503)."""
        try:
            async with PatientTimeout(seconds) as timeout:
                self._timeouts[timeout] = None
                try:
                    yield
                finally:
                    del self._timeouts[timeout]
        except TimeoutError:
            self.check_open()
            raise

    # -- chats

    def answer(
        self, prompt: Prompt, *, owner: str, trace_id: str, headers: Headers
    ) -> ChatResponse:
        """The response that will answer the prompt. Raises ApiError (400, 503); starts nothing."""
        if self.is_ending:
            raise _shutting_down()
        session_id = session_of(
            prompt,
            headers,
            settings=self.settings,
            is_devkey=self.keys.is_devkey,
            trace_id=trace_id,
        )
        strategy = strategy_of(prompt, headers, self.settings)
        ignored = (*prompt.ignored, *overruled(prompt, headers))
        now = asyncio.get_running_loop().time()
        created = int(self._wall_clock())
        record = Record(
            trace_id=trace_id,
            owner=owner,
            session_id=session_id,
            created=created,
            text_max_chars=self.settings.archive_max_chars,
            registered_at=now,
            model=prompt.request.body.get("model"),
            tell=self.events.tell,
        )
        self.events.tell(line(REGISTERED, trace=trace_id))
        request = prompt.request
        if self._traces is not None:
            request = replace(request, headers=self._traces.begin(trace_id, headers))
        self._archive.add(record, now)
        record.on_change = lambda changed: self._changed(changed.trace_id)
        if self._shared is not None:
            self._shared.add(record, self.keys.namespace(owner, session_id))
        task = StreamTask(
            trace_id=trace_id,
            request=request,
            client=self._client,
            pick_model=self._pick_model,
            registry=self.registry,
            settings=self.settings,
            buffer=Buffer(self.settings.buffer_max_chunks),
            record=record,
            events=self.events,
        )
        return ChatResponse(
            session_id=self.keys.namespace(owner, session_id),
            strategy=strategy,
            task=task,
            answer=prompt.new_answer(trace_id, created),
            streamed=prompt.is_streamed,
            registry=self.registry,
            settings=self.settings,
            connections=self.connections,
            repeats=self._repeats,
            attempt=Attempt(prompt.digest.hex(), says_it_repeats(headers)),
            headers={"x-ignored-fields": ", ".join(ignored)} if ignored else {},
        )

    async def _pick_model(self) -> str:
        models = await self._lister.models()
        name = first_that_chats(models)
        if name is None:
            there = "none that can chat" if models else "none"
            address = self.settings.ollama_host
            raise ApiError(
                404,
                "model_not_found",
                f"the prompt names no model, and Ollama at {address} has {there}; "
                f"`ollama pull` one, or set JARVIS_DEFAULT_MODEL",
                param="model",
            )
        return name

    # -- streams and models

    def streams(self, owner: str) -> list[dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        streams = streams_in(self.registry.snapshot())
        records = self._archive.of_owner(owner, now)
        return [record.view(streams, now, with_text=False) for record in records]

    def stream(self, owner: str, trace_id: str) -> dict[str, Any]:
        """Raises ApiError (404) for what is unknown, forgotten or another key's: all the same."""
        now = asyncio.get_running_loop().time()
        record = self._record(owner, trace_id, now)
        return record.view(streams_in(self.registry.snapshot()), now, with_text=True)

    def _view_of(self, record: Record) -> dict[str, Any]:
        streams = streams_in(self.registry.snapshot())
        return record.view(streams, asyncio.get_running_loop().time(), with_text=True)

    async def all_streams(self, owner: str) -> list[dict[str, Any]]:
        """Those of every worker, newest first. Raises ApiError (503)."""
        if self._shared is None:
            return self.streams(owner)
        with _store_errors():
            others = [each.shown for each in await self._shared.others(owner)]
            # Not before: what others say takes a while, and these would be older.
            own = self.streams(owner)
            await self._place(owner, own + others)
        for view in others:
            del view["text"]
        # Both are in order already, and `created` is in seconds.
        views = sorted((*own, *others), key=lambda view: -view["created"])
        correct_stopped(views)
        return views

    def watch(self, owner: str, trace_id: str) -> WatchResponse:
        """The response that shows the owner's streams as they change."""
        return WatchResponse(
            self.watches,
            owner,
            trace_id=trace_id,
            settings=self.settings,
            connections=self.connections,
            events=self.events,
            headers={
                "content-type": Answer.content_type,
                **STREAM_HEADERS,
                # How long a client may hear nothing of a watch that lives.
                "x-ping-seconds": str(self.settings.ping_seconds),
            },
        )

    def _changed(self, trace_id: str) -> None:
        if self._shared is not None:
            self._shared.changed(trace_id)
        self.watches.changed(trace_id)

    async def _others(self, owner: str) -> list[Entry]:
        """Raises ApiError (503)."""
        assert self._shared is not None
        with _store_errors():
            return await self._shared.last_described(owner)

    async def any_stream(self, owner: str, trace_id: str) -> dict[str, Any]:
        """Of whichever worker has it. Raises ApiError (404, 503)."""
        view = await self._others_stream(owner, trace_id) or self.stream(owner, trace_id)
        with suppress(StoreUnreachable):
            await self._place(owner, [view])
        return view

    async def _others_stream(self, owner: str, trace_id: str) -> dict[str, Any] | None:
        now = asyncio.get_running_loop().time()
        if self._shared is None or self._archive.get(owner, trace_id, now) is not None:
            return None
        with _store_errors():
            entry = await self._shared.other(owner, trace_id)
        return None if entry is None else entry.shown

    async def _place(self, owner: str, views: Sequence[dict[str, Any]]) -> None:
        """Says of each that waits where it stands, which the store knows. Raises StoreUnreachable.

        None for one that is let in, or has left, by then.
        """
        if self._leased is None:
            return
        waiting = [view for view in views if view["state"] == State.WAITING.name]
        sessions = {self.keys.namespace(owner, view["session_id"]): None for view in waiting}
        queues = await asyncio.gather(*map(self._leased.store.queue, sessions))
        places = {
            stream.partition("/")[2]: place
            for queue in queues
            for place, stream in enumerate(queue, 1)
        }
        for view in waiting:
            view["queue_position"] = places.get(view["trace_id"])

    async def cancel(self, owner: str, trace_id: str) -> bool:
        """False if it had ended or was stopped before. Raises ApiError (404, 503)."""
        now = asyncio.get_running_loop().time()
        if self._leased is not None and self._archive.get(owner, trace_id, now) is None:
            assert self._shared is not None
            with _store_errors():
                entry = await self._shared.known(owner, trace_id)
                if entry is not None:
                    return not entry.ended and await self._leased.cancel_elsewhere(
                        entry.session, entry.worker, trace_id
                    )
        self._record(owner, trace_id, now)
        return await self.registry.cancel(trace_id, "requested_by_client")

    def _record(self, owner: str, trace_id: str, now: float) -> Record:
        record = self._archive.get(owner, trace_id, now)
        if record is None:
            raise ApiError(
                404,
                "stream_not_found",
                f"no stream {trace_id[:80]!a} of this key is running, or ended within the "
                f"last {self.settings.archive_seconds:g} s among the last "
                f"{self.settings.archive_max}",
            )
        return record

    async def models(self) -> list[dict[str, Any]]:
        """Ollama's models, in OpenAI's form. Raises ApiError (503, 504 or what Ollama answers)."""
        limit_s = self.settings.models_seconds
        try:
            async with self.limit(limit_s):
                models = await self._lister.models()
        except TimeoutError:
            raise ApiError(
                504,
                "upstream_silent",
                f"Ollama at {self.settings.ollama_host} has not listed its models within "
                f"{limit_s:g} s (JARVIS_MODELS_SECONDS)",
            ) from None
        return [
            {
                "id": model["name"],
                "object": "model",
                "created": seconds_since_1970(model.get("modified_at")),
                "owned_by": "ollama",
            }
            for model in models
        ]

    async def fetch(
        self, method: str, path: str, content: bytes, limit_s: float, limit_name: str
    ) -> bytes:
        """What Ollama answers to one request, whole. Raises ApiError (503, 504 or its own)."""
        try:
            async with self.limit(limit_s):
                return await self._lister.fetch(method, path, content)
        except TimeoutError:
            raise ApiError(
                504,
                "upstream_silent",
                f"Ollama at {self.settings.ollama_host} has not answered {path} within "
                f"{limit_s:g} s ({limit_name})",
            ) from None

    async def check_ready(self) -> None:
        """Raises ApiError (503, 504 or what Ollama answers) where no prompt would be answered."""
        await self._readiness.check()

    async def _ask_all(self) -> None:
        if self._leased is not None:
            with _store_errors():
                await self._leased.check()
        await self.models()

    def health(self) -> dict[str, Any]:
        """Of this worker. Asks nobody."""
        health: dict[str, Any] = {"status": "ok", "streams": self.counts()}
        return health | self.sessions()

    def sessions(self) -> dict[str, Any]:
        """Which of the workers that share a store this is, and how that answered it last."""
        if self._leased is None:
            return {}
        sessions = {
            "worker": self._leased.worker,
            "streams_are": "of_this_worker",
            "store": self._leased.store.state.value,
        }
        return {"sessions": sessions}

    @property
    def worker(self) -> str:
        """Its name among those that share a store; empty where there is none."""
        return "" if self._leased is None else self._leased.worker

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, and its content type."""
        assert self.metrics is not None
        families = partial(
            self.metrics.families,
            self.registry.snapshot(),
            worker=self.worker,
            chunks_of_running=self._archive.chunks_of_running(),
            is_store_up=self._leased is None
            or self._leased.store.state is not StoreState.UNREACHABLE,
        )
        return exposition(families, accept)

    def counts(self) -> dict[str, int]:
        """How many streams are in each state."""
        snapshot = self.registry.snapshot()
        return {state.name.lower(): len(snapshot.in_state(state)) for state in State}

    # -- the end

    def begin_shutdown(self, *, others_serve: bool = False) -> None:
        """Stops every stream and lets no prompt in. At once; may be called again.

        others_serve: what comes for as long as connections may be left is answered, if it is no
        prompt. Who is connected to a worker that is replaced notices nothing.
        """
        if self._closing is not None:
            return
        loop = asyncio.get_running_loop()
        self._closing = loop.create_task(self.registry.close(), name="registry-close")
        if others_serve:
            loop.call_later(_LOOKUPS_S, self._shut)
        else:
            self._shut()
        self.watches.end()
        for connection in self.connections:
            connection.hurry(self.settings.grace_seconds * _HURRY_SHARE)

    def _shut(self) -> None:
        self._is_shut = True
        for timeout in self._timeouts:
            timeout.end()

    async def shut_down(self) -> None:
        """Waits until every stream has ended, or its grace is over."""
        self.begin_shutdown()
        assert self._closing is not None
        await asyncio.wait({self._closing})
        if self._shared is not None:
            await self._shared.end()


def _shutting_down() -> ApiError:
    """Nothing is known of its session yet, so that it may be sent again."""
    return ApiError(
        503,
        "shutting_down",
        "the server is shutting down; ask its successor",
        headers={"connection": "close", "retry-after": "1"},
    )


@contextmanager
def _store_errors() -> Iterator[None]:
    """That the store of sessions is away, or refuses this worker, as ApiError (503)."""
    try:
        yield
    except (StoreUnreachable, StoreRefused, LimitsDiffer) as exc:
        raise ApiError(
            503, SessionsUnavailable.code, wording.sentence(exc), headers={"retry-after": "1"}
        ) from exc
