"""The fake Ollama's behaviour: one script of latencies, chunks and faults, for every front.

`FakeOllama.handle` turns one HTTP request into steps (see `steps.py` for what a front owes it).
Nothing in here knows a clock, a socket or an event loop; the time is asked of `now_ns`. All
requests of one fake must be handled in one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sim.fake_ollama.answers import Answer, Item, sleep
from sim.fake_ollama.modes import (
    BUSY_TEXT,
    MODES,
    Failure,
    Mode,
    mode_named,
)
from sim.fake_ollama.profiles import PROFILES, Profile, profile_named
from sim.fake_ollama.requests import BadRequest, Request, read_embed, read_object, read_request
from sim.fake_ollama.slots import Slots, Waiter
from sim.fake_ollama.steps import Acquire, Body, Drop, End, Head, Step
from sim.fake_ollama.wire import (
    FOR_EVER_NS,
    JSON,
    JSON_IN_STREAM,
    NDJSON,
    TEXT,
    TEXT_UTF8,
    VERSION,
    Chunk,
    Segments,
    chunk_object,
    encode,
    failure_object,
    full_name,
    ps_object,
    show_object,
    tag_object,
    vector_of,
)

__all__ = [
    "MODES",
    "PROFILES",
    "Call",
    "FakeOllama",
    "ModelState",
    "Profile",
    "profile_named",
]

Steps: TypeAlias = Generator[Step, None, None]
LastStep: TypeAlias = End | Drop

METHODS = {
    "/": ("GET", "HEAD"),
    "/api/version": ("GET", "HEAD"),
    "/api/tags": ("GET", "HEAD"),
    "/api/ps": ("GET",),
    "/api/show": ("POST",),
    "/api/chat": ("POST",),
    "/api/generate": ("POST",),
    "/api/embed": ("POST",),
    "/api/embeddings": ("POST",),
}


@dataclass(slots=True, eq=False)
class Call:
    """The record of one upstream call: a chat or generate request for a model that exists.

    `ended` is None while the call runs. A call that leaked has lost its caller and keeps its slot.
    `slot_ns` is when it got its slot, None if it never did; `chunks` counts those that were handed
    to the front, the last one (with done) included.
    """

    number: int
    model: str
    mode: str
    prompt: str
    started_ns: int
    slot_ns: int | None = None
    ended_ns: int | None = None
    ended: Literal["finished", "disconnected", "leaked"] | None = None
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class ModelState:
    """A look at one model; `slots_taken` counts the leaked ones too."""

    loaded: bool
    loads_started: int
    slots_taken: int
    slots_waiting: int
    slots_leaked: int


@dataclass(slots=True, eq=False)
class _Model:
    name: str
    mode: Mode
    slots: Slots
    keep_alive_s: float
    loader: Slots = field(default_factory=lambda: Slots(1))
    leaked: list[Waiter] = field(default_factory=list)
    loaded: bool = False
    loads_started: int = 0
    expires_ns: int = 0

    @property
    def was_called(self) -> bool:
        return bool(self.loads_started or self.loaded or self.slots.was_asked)


class FakeOllama:
    """One fake Ollama server. `now_ns` answers the nanoseconds since 1970, by any clock."""

    def __init__(self, profile: Profile, now_ns: Callable[[], int]) -> None:
        self.profile = profile
        self._now_ns = now_ns
        self._calls: deque[Call] = deque(maxlen=profile.calls_kept)
        self._active: dict[int, Call] = {}
        self._calls_begun = 0
        self._models: dict[str, _Model] = {}
        for name in profile.models:
            self._add_model(full_name(name), mode_named(profile.mode))
        for mode in MODES.values():
            if mode.installed:
                self._add_model(f"fake:{mode.name}", mode)

    def canonical_state(self) -> object:
        """All of it that decides what happens next: of the models those that were ever called."""
        called = {name: model for name, model in self._models.items() if model.was_called}
        return self._calls, self._active, self._calls_begun, list(self._models), called

    # ---- what tests and scenarios read ------------------------------------------------------

    @property
    def calls(self) -> tuple[Call, ...]:
        """The last upstream calls (`Profile.calls_kept` of them), the oldest first."""
        return tuple(self._calls)

    @property
    def active_calls(self) -> tuple[Call, ...]:
        """The running calls: neither finished, nor disconnected, nor leaked."""
        return tuple(self._active.values())

    def slots_taken(self, model: str) -> int:
        """How many of the model's slots are taken, leaked ones included. KeyError if unknown."""
        return self._models[full_name(model)].slots.taken

    def state(self, model: str) -> ModelState:
        """Look at a model. KeyError if unknown."""
        known = self._models[full_name(model)]
        self._expire(known)
        return ModelState(
            loaded=known.loaded,
            loads_started=known.loads_started,
            slots_taken=known.slots.taken,
            slots_waiting=known.slots.waiting,
            slots_leaked=len(known.leaked),
        )

    def reset(self, model: str | None = None) -> None:
        """Unload the model, or every model, and so free its leaked slots. KeyError if unknown."""
        models = self._models.values() if model is None else [self._models[full_name(model)]]
        for known in models:
            self._unload(known)

    # ---- one HTTP request -------------------------------------------------------------------

    def handle(self, method: str, path: str, body: bytes = b"") -> Steps:
        """Answer one HTTP request; a query behind the path is ignored.

        The last step is `End` or `Drop`. By then the call is over and its slot is free.
        """
        last = yield from self._route(method, path.partition("?")[0], body)
        yield last

    def _route(self, method: str, path: str, body: bytes) -> Generator[Step, None, LastStep]:
        if path not in METHODS:
            return (yield from _whole(404, TEXT, b"404 page not found"))
        if method not in METHODS[path]:
            return (yield from _whole(405, TEXT, b"405 method not allowed"))
        if path == "/":
            return (yield from _whole(200, TEXT_UTF8, b"Ollama is running"))
        try:
            if path == "/api/show":
                return (yield from _json(self._show(body)))
            if path in ("/api/embed", "/api/embeddings"):
                return (yield from _json(self._embed(path, body)))
            if path in ("/api/chat", "/api/generate"):
                request, model = self._admit(path, body)
                return (yield from self._complete(request, model))
        except BadRequest as error:
            return (yield from _failure(error.failure, JSON))
        return (yield from _json(self._look_up(path)))

    def _look_up(self, path: str) -> dict[str, object]:
        if path == "/api/version":
            return {"version": VERSION}
        if path == "/api/tags":
            return {"models": [tag_object(name) for name in self._models]}
        for model in self._models.values():
            self._expire(model)
        loaded = [model for model in self._models.values() if model.loaded]
        loaded.sort(key=lambda model: -model.expires_ns)
        return {"models": [ps_object(model.name, model.expires_ns) for model in loaded]}

    def _show(self, body: bytes) -> dict[str, object]:
        fields = read_object(body, "ShowRequest")
        name = fields.get("model") or fields.get("name")
        if not isinstance(name, str):
            raise BadRequest("model is required")
        return show_object(name, self._find(name).mode)

    def _embed(self, path: str, body: bytes) -> dict[str, object]:
        """Vectors that differ from text to text, at once: without faults and waits."""
        is_old = path == "/api/embeddings"
        model, texts, dimensions = read_embed(body, is_old=is_old)
        mode = self._find(model).mode
        if mode.refusal is not None:
            raise BadRequest(mode.refusal.text, mode.refusal.status)
        vectors = [vector_of(text, dimensions) for text in texts]
        if is_old:
            return {"embedding": vectors[0]}
        return {
            "model": model,
            "embeddings": vectors,
            "prompt_eval_count": sum(len(text.split()) for text in texts),
        }

    def _admit(self, path: str, body: bytes) -> tuple[Request, _Model]:
        """Read the request and find its model. Raises BadRequest."""
        request = read_request(path, body)
        if not request.model and request.is_chat:
            raise BadRequest("model is required")
        model = self._find(request.model)
        if _wants_unload(request):
            return request, model
        capabilities = model.mode.capabilities
        if request.think and "thinking" not in capabilities:
            raise BadRequest(f'"{request.model}" does not support thinking')
        if request.tool is not None and "tools" not in capabilities:
            raise BadRequest(f'"{request.model}" does not support tools')
        return request, model

    def _find(self, name: str) -> _Model:
        model = self._models.get(full_name(name))
        if model is None:
            raise BadRequest(f"model '{name}' not found", status=404)
        return model

    # ---- one call ---------------------------------------------------------------------------

    def _complete(self, request: Request, model: _Model) -> Generator[Step, None, LastStep]:
        """Carry out a chat or generate request, and record it, however it ends."""
        call = self._begin(request, model)
        held: list[Waiter] = []
        try:
            last = yield from self._respond(call, request, model, held)
            call.ended = "finished"
        except GeneratorExit:
            keeps = model.mode.keeps_slot and any(waiter.granted for waiter in held)
            call.ended = "leaked" if keeps else "disconnected"
            raise
        finally:
            call.ended_ns = self._now_ns()
            self._active.pop(call.number)
            if call.ended == "leaked":
                model.leaked.extend(held)
            else:
                self._give_back(model, held)
        return last

    def _begin(self, request: Request, model: _Model) -> Call:
        self._calls_begun += 1
        call = Call(
            number=self._calls_begun,
            model=request.model,
            mode=model.mode.name,
            prompt=request.prompt,
            started_ns=self._now_ns(),
        )
        self._calls.append(call)
        self._active[call.number] = call
        return call

    def _respond(
        self, call: Call, request: Request, model: _Model, held: list[Waiter]
    ) -> Generator[Step, None, LastStep]:
        if _wants_unload(request):
            self._unload(model)
            return (yield from self._blank_answer(request, "unload"))
        if model.mode.refusal is not None:
            return (yield from _failure(model.mode.refusal, JSON))
        self._expire(model)
        if not model.loaded and self._load_queue_is_full(model):
            return (yield from _failure(Failure(503, BUSY_TEXT), JSON))

        keep_alive_s = request.keep_alive_s
        model.keep_alive_s = self.profile.keep_alive_s if keep_alive_s is None else keep_alive_s
        yield from self._load(model)
        if request.is_blank:
            return (yield from self._blank_answer(request, "load"))

        yield from self._take_slot(model, held)
        call.slot_ns = self._now_ns()
        answer = Answer(
            request=request,
            mode=model.mode,
            profile=self.profile,
            number=call.number,
            started_ns=call.started_ns,
            now_ns=self._now_ns,
        )
        items = answer.items()
        if request.stream:
            return (yield from self._send_stream(call, request, model.mode, items))
        return (yield from self._send_whole(call, request, items))

    def _blank_answer(self, request: Request, reason: str) -> Generator[Step, None, LastStep]:
        chunk = Chunk(done_reason=reason)
        return (yield from _json(chunk_object(request, chunk, self._now_ns())))

    # ---- models and slots -------------------------------------------------------------------

    def _add_model(self, name: str, mode: Mode) -> None:
        slots = Slots(self.profile.num_parallel)
        self._models[name] = _Model(name, mode, slots, self.profile.keep_alive_s)

    def _load_queue_is_full(self, model: _Model) -> bool:
        waiting = sum(known.loader.waiting for known in self._models.values())
        return model.loader.taken > 0 and waiting >= self.profile.queue_max

    def _load(self, model: _Model) -> Steps:
        """Load the model, or wait for the request that is loading it.

        If that request's client leaves, the load is lost: the next one starts again (ollama#8398).
        """
        if model.loaded:
            return
        turn = model.loader.ask()
        try:
            if not turn.granted:
                yield Acquire(turn)
            if not model.loaded:
                model.loads_started += 1
                yield from sleep(self._load_s(model.mode))
                model.loaded = True
                self._touch(model)
        finally:
            model.loader.give_back(turn)

    def _load_s(self, mode: Mode) -> float:
        profile = self.profile
        by_kind = {
            "load": profile.load_s,
            "slow_load": profile.slow_load_s,
            "aborted_load": profile.aborted_load_s,
        }
        return by_kind[mode.load]

    def _take_slot(self, model: _Model, held: list[Waiter]) -> Steps:
        waiter = model.slots.ask()
        held.append(waiter)
        if not waiter.granted:
            yield Acquire(waiter)
        # The model may have been unloaded while this request waited.
        yield from self._load(model)

    def _give_back(self, model: _Model, held: list[Waiter]) -> None:
        if any(waiter.granted for waiter in held):
            self._touch(model)
        for waiter in held:
            model.slots.give_back(waiter)
        self._expire(model)

    def _touch(self, model: _Model) -> None:
        """Count the keep-alive time from now on."""
        if model.keep_alive_s < 0:
            model.expires_ns = self._now_ns() + FOR_EVER_NS
        else:
            model.expires_ns = self._now_ns() + round(model.keep_alive_s * 1e9)

    def _expire(self, model: _Model) -> None:
        """Unload an idle model whose keep-alive time is over; called at each use, so no timer."""
        if model.slots.taken == 0 and self._now_ns() >= model.expires_ns:
            model.loaded = False

    def _unload(self, model: _Model) -> None:
        """Unload the model: at once if only leaked calls hold it, else when the live ones end."""
        if model.slots.taken == len(model.leaked):
            model.loaded = False
        model.keep_alive_s = 0
        leaked, model.leaked = model.leaked, []
        for waiter in leaked:
            model.slots.give_back(waiter)

    # ---- the wire forms ---------------------------------------------------------------------

    def _send_stream(
        self, call: Call, request: Request, mode: Mode, items: Iterator[Item]
    ) -> Generator[Step, None, LastStep]:
        """Send a line per chunk. Not even the status line leaves before the first one."""
        segments = Segments(mode, self.profile.segment_bytes)
        full: list[bytes] = []
        head_sent = False
        for item in items:
            if isinstance(item, Drop):
                return item
            if isinstance(item, Failure) and call.chunks == 0:
                return (yield from _failure(item, JSON_IN_STREAM))
            if isinstance(item, Failure):
                full = segments.add(encode(failure_object(item)) + b"\n")
            elif isinstance(item, Chunk):
                call.chunks += 1
                line = encode(chunk_object(request, item, self._now_ns()))
                full = segments.add(line + b"\n")
            else:
                yield item
                continue
            if full and not head_sent:
                head_sent = True
                yield Head(200, NDJSON)
            for data in full:
                yield Body(data)
        if not head_sent:
            yield Head(200, NDJSON)
        for data in segments.rest():
            yield Body(data)
        return End()

    def _send_whole(
        self, call: Call, request: Request, items: Iterator[Item]
    ) -> Generator[Step, None, LastStep]:
        """Send one object: the last chunk, with the content of all of them."""
        said: list[Chunk] = []
        for item in items:
            if isinstance(item, Drop):
                return item
            if isinstance(item, Failure):
                return (yield from _failure(item, JSON))
            if isinstance(item, Chunk):
                call.chunks += 1
                said.append(item)
            else:
                yield item
        last = said[-1] if said else Chunk()
        whole = Chunk(
            content="".join(chunk.content for chunk in said),
            thinking="".join(chunk.thinking for chunk in said),
            tool_calls=tuple(tool for chunk in said for tool in chunk.tool_calls),
            done_reason=last.done_reason,
            metrics=last.metrics,
        )
        return (yield from _json(chunk_object(request, whole, self._now_ns())))


def _wants_unload(request: Request) -> bool:
    return request.is_blank and request.keep_alive_s == 0


def _whole(status: int, content_type: str, body: bytes) -> Generator[Step, None, LastStep]:
    yield Head(status, content_type, len(body))
    yield Body(body)
    return End()


def _json(value: dict[str, object]) -> Generator[Step, None, LastStep]:
    return (yield from _whole(200, JSON, encode(value)))


def _failure(failure: Failure, content_type: str) -> Generator[Step, None, LastStep]:
    body = encode(failure_object(failure))
    return (yield from _whole(failure.status, content_type, body))
