"""`GET /v1/streams?watch`: what a watcher is told, how much waits for it, when it is over.

In the simulator, in virtual time: once, in natural order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest

from registry import StreamRegistry
from server import watch
from server.app import create_app
from server.archive import Archive
from server.errors import ApiError
from server.events import Events
from server.stores.directory import Entry
from server.watch import Watches, WatchResponse
from sim import World, explore, run
from sim.bench.harness.asgi import Exchange, SimServer
from sim.bench.harness.http_bench import KEYS
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.server_bench import ServerBench
from sim.bench.harness.server_judgements import make_server_bench
from tests.server.support import events, settings


def play(
    story: Callable[[ServerBench], Awaitable[None]], buffer_bytes: int = 1 << 16, **limits: Any
) -> None:
    """The story on a server with the keys of Alice and Bob."""

    async def program(world: World) -> None:
        bench = make_server_bench(world, StreamRegistry, settings=limits, buffer_bytes=buffer_bytes)
        with log_recorded(world, bench.logged.append):
            await bench.play(story)

    report = explore(program, strategy="natural", max_executions=1)
    assert report.counterexample is None, report.text


def watching(server: SimServer, key: str, query: bytes = b"watch") -> Exchange:
    """A client that watches the streams of a key from now on."""
    headers = {"authorization": f"Bearer {key}"}
    exchange = server.request("watch", "GET", "/v1/streams", headers=headers)
    exchange.scope["query_string"] = query
    return exchange


def told(exchange: Exchange) -> list[Any]:
    """Its messages so far."""
    return events(exchange.body.decode())


def changes(exchange: Exchange) -> list[tuple[str, str]]:
    """The states that it was told of behind the list, without those that were told twice."""
    found = [
        (each["trace_id"], each["state"])
        for each in told(exchange)[1:]
        if each != "[DONE]" and each.get("object") == "stream"
    ]
    return list(dict.fromkeys(found))


async def left(bench: ServerBench, *exchanges: Exchange) -> None:
    """They have left, and the server has noticed."""
    for each in exchanges:
        each.leave()
    await bench.over(*exchanges)
    assert bench.app.state.service.watches.count == 0


def test_a_watcher_gets_the_list_and_then_each_state_in_order() -> None:
    """The older stream stops before the newer is let in, each with its time and its reason."""

    async def story(bench: ServerBench) -> None:
        p1 = await bench.post("p1", model="fake:hang-midstream")
        await asyncio.sleep(2)
        seen = watching(bench.server, KEYS["alice"])
        await asyncio.sleep(0.1)
        (first,) = told(seen)
        assert (first["object"], first["workers"], first["message"]) == ("list", "all", None)
        assert [(each["trace_id"], each["state"]) for each in first["data"]] == [
            (p1.given_id, "ACTIVE")
        ]
        await asyncio.sleep(1)
        p2 = await bench.post("p2")
        await bench.over(p1, p2)
        await asyncio.sleep(0.1)
        one, two = str(p1.given_id), str(p2.given_id)
        assert changes(seen) == [
            *((one, "STOPPING"), (two, "WAITING"), (one, "ENDED"), (two, "ACTIVE"), (two, "ENDED"))
        ]
        stopped = next(each for each in told(seen)[1:] if each["state"] == "STOPPING")
        assert stopped["reason"] == "superseded"
        assert 3000 < stopped["timings_ms"]["now"] < 3300
        ended = told(seen)[-1]
        assert (ended["trace_id"], ended["reason"], ended["chunks"]) == (two, "stop", 3)
        assert "text" not in json.dumps(told(seen))
        await left(bench, seen)

    play(story)


def test_what_no_change_tells_is_looked_at_each_second() -> None:
    """Chunks that came are told while a stream runs, and nothing while nothing happens."""

    async def story(bench: ServerBench) -> None:
        seen = watching(bench.server, KEYS["alice"])
        p1 = await bench.post("p1", model="fake:hang-midstream")
        await asyncio.sleep(10)
        assert [each["chunks"] for each in told(seen)[1:]] == [0, 1]
        await bench.press_stop(p1)
        await left(bench, seen)

    play(story)


def test_a_key_sees_its_own_streams_only() -> None:
    """Neither in the list nor as changes."""

    async def story(bench: ServerBench) -> None:
        p1 = await bench.post("p1", model="fake:normal")
        await asyncio.sleep(0.5)
        bobs = watching(bench.server, KEYS["bob"])
        await bench.over(p1)
        p2 = await bench.post("p2", key="bob")
        await bench.over(p2)
        await asyncio.sleep(1)
        assert told(bobs)[0]["data"] == []
        assert {trace_id for trace_id, _ in changes(bobs)} == {p2.given_id}
        await left(bench, bobs)

    play(story)


def test_silence_is_broken_by_comments() -> None:
    """So that neither a proxy nor the client takes it for death."""

    async def story(bench: ServerBench) -> None:
        seen = watching(bench.server, KEYS["alice"])
        await asyncio.sleep(10.5)
        assert 4 <= seen.body.count(b": ping\n") <= 6
        assert len(told(seen)) == 1
        assert seen.headers["content-type"].startswith("text/event-stream")
        assert seen.headers["x-accel-buffering"] == "no"
        assert float(seen.headers["x-ping-seconds"]) == 2.0
        await left(bench, seen)

    play(story, ping_seconds=2.0)


def test_who_is_too_far_behind_gets_the_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of what it has missed; and never more waits for it."""
    monkeypatch.setattr(watch, "NOTED_MAX", 3)

    async def story(bench: ServerBench) -> None:
        seen = watching(bench.server, KEYS["alice"])
        await asyncio.sleep(0.5)
        prompts = [bench.post_now(f"p{number}", f"s{number}") for number in range(5)]
        await asyncio.sleep(2)
        lists = [each for each in told(seen) if each["object"] == "list"]
        assert [len(each["data"]) for each in lists] == [0, 5]
        await bench.over(*prompts)
        await left(bench, seen)

    play(story)


def test_who_does_not_read_is_dropped_and_holds_nobody_up() -> None:
    """After JARVIS_SEND_SECONDS, while prompts are answered as ever."""

    async def story(bench: ServerBench) -> None:
        seen = watching(bench.server, KEYS["alice"])
        await asyncio.sleep(0.1)
        seen.stop_reading()
        p1 = await bench.post("p1")
        await bench.over(p1)
        assert p1.ended_at is not None
        assert p1.ended_at < 3
        await bench.over(seen)
        assert any(line.event == "watcher_stalled" for line in bench.logged), bench.logged
        assert bench.app.state.service.watches.count == 0
        seen.leave()

    play(story, buffer_bytes=0, send_seconds=5.0)


def test_no_more_may_watch_than_the_setting_says() -> None:
    """429 with the setting's name; for each key, and until one of them leaves."""

    async def story(bench: ServerBench) -> None:
        first, second = (watching(bench.server, KEYS["alice"]) for _ in range(2))
        bobs = watching(bench.server, KEYS["bob"])
        await bench.over(second)
        assert (second.status, bobs.status) == (429, 200)
        assert b"JARVIS_WATCHERS_MAX" in second.body
        first.leave()
        await bench.over(first)
        again = watching(bench.server, KEYS["alice"])
        await asyncio.sleep(0.1)
        assert again.status == 200
        await left(bench, again, bobs)

    play(story, watchers_max=1)


def test_the_end_of_the_server_ends_a_watch() -> None:
    """At once, with an error and `[DONE]`, so that nobody waits for it."""

    async def story(bench: ServerBench) -> None:
        p1 = await bench.post("p1", model="fake:hang-midstream")
        seen = watching(bench.server, KEYS["alice"])
        await asyncio.sleep(3)
        begun = bench.world.now
        ending = bench.terminate()
        await bench.over(seen, p1)
        assert bench.world.now - begun < 0.5
        error, done = told(seen)[-2:]
        assert (error["error"]["code"], done) == ("shutting_down", "[DONE]")
        await asyncio.wait({ending})

    play(story)


@pytest.mark.parametrize("query", [b"watch=maybe", b"watch=2"])
def test_a_word_that_is_neither_yes_nor_no_is_refused(query: bytes) -> None:
    """400; `watch=false` is as good as none."""

    async def story(bench: ServerBench) -> None:
        asked = watching(bench.server, KEYS["alice"], query)
        plain = watching(bench.server, KEYS["alice"], b"watch=false")
        await bench.over(asked, plain)
        assert (asked.status, plain.status) == (400, 200)
        assert json.loads(plain.body) == {"object": "list", "data": []}

    play(story)


# ---- streams that do not end, and other workers ----------------------------------------------


def test_a_stream_that_does_not_end_within_its_grace_is_seen_detached() -> None:
    """When the grace is over, and ended when it really is."""
    release = asyncio.Event()

    async def stubborn() -> AsyncIterator[bytes]:
        yield b'{"message":{"content":"one"},"done":false}\n'
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def main(world: World) -> None:
        release.clear()
        app = create_app(
            settings(api_keys="k"),
            async_transport=lambda: httpx.MockTransport(
                lambda request: httpx.Response(200, content=stubborn())
            ),
            new_trace_id=iter("abcdefgh").__next__,
            wall_clock=lambda: world.now,
            signals=(),
        )
        server = SimServer(world, app, buffer_bytes=1 << 16)
        await server.start()
        seen = watching(server, "k")
        headers = {"authorization": "Bearer k", "content-type": "application/json"}
        body = json.dumps({"prompt": "hello", "stream": True}).encode()
        chat = server.request("chat", "POST", "/v1/chat/completions", headers=headers, body=body)
        await asyncio.sleep(2)
        chat.leave()
        await asyncio.sleep(4)
        name = str(chat.given_id)
        assert changes(seen) == [(name, "ACTIVE"), (name, "STOPPING"), (name, "DETACHED")]
        times = {each["state"]: each["timings_ms"]["now"] for each in told(seen)[1:]}
        assert times["DETACHED"] - times["STOPPING"] in range(1990, 2020)
        release.set()
        await asyncio.sleep(1)
        assert changes(seen)[-1] == (name, "ENDED")
        seen.leave()
        await server.stop()

    outcome = run(main)
    assert outcome.violation is None, outcome.violation


def test_streams_of_other_workers_are_shown_while_their_store_answers() -> None:
    """With what they are told last; and while it does not, the list says which are missing."""

    def entry(trace_id: str, state: str, version: int) -> Entry:
        view = json.dumps({"trace_id": trace_id, "state": state, "created": 1, "text": "secret"})
        return Entry("key1", trace_id, "w2", "key1/s", 0, version, state == "ENDED", view)

    async def main(world: World) -> None:
        seen: dict[str, Any] = {"entries": [entry("x", "ACTIVE", 1)], "error": None}

        async def others(owner: str) -> Sequence[Entry]:
            if seen["error"] is not None:
                raise seen["error"]
            return list(seen["entries"])

        app, watches = watched_with(others)
        watched = watching(SimServer(world, app), "any")
        await asyncio.sleep(2.5)
        seen["entries"] = [entry("y", "ACTIVE", 1), entry("x", "ENDED", 2)]
        await asyncio.sleep(2.5)
        seen["error"] = ApiError(503, "sessions_unavailable", "the store is away")
        await asyncio.sleep(2.5)
        seen["error"] = None
        await asyncio.sleep(2.5)
        words = [
            (each["workers"], len(each["data"]))
            if each["object"] == "list"
            else (each["trace_id"], each["state"])
            for each in map(with_object, told(watched))
        ]
        assert words == [("all", 1), ("x", "ENDED"), ("y", "ACTIVE"), ("this", 0), ("all", 2)]
        assert "the store is away" in told(watched)[3]["message"]
        assert "secret" not in watched.body.decode()
        watched.leave()
        assert watched.task is not None
        await asyncio.wait({watched.task})
        assert watches.count == 0

    outcome = run(main)
    assert outcome.violation is None, outcome.violation


def watched_with(others: watch.Others, trace_id: str = "t") -> tuple[Any, Watches]:
    """An application that is one watch, of the others alone."""
    limits = settings(sessions="sqlite")
    archive = Archive(records_max=9, age_s=9)
    watches = Watches(
        StreamRegistry(), archive, settings=limits, list_of=lambda owner: [], others=others
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        response = WatchResponse(
            watches,
            "key1",
            trace_id=trace_id,
            settings=limits,
            connections={},
            headers={},
            events=Events(),
        )
        await response(scope, receive, send)

    return app, watches


def test_others_that_cannot_be_read_are_said_to_be_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it is that fails: the log has it once, and they are shown when it is over."""
    asked = 0

    async def others(owner: str) -> Sequence[Entry]:
        nonlocal asked
        asked += 1
        if 2 <= asked <= 4:
            raise TypeError("what another release has written")
        return [Entry("key1", "x", "w2", "key1/s", 0, 1, False, '{"trace_id": "x", "created": 1}')]

    async def main(world: World) -> None:
        app, _ = watched_with(others)
        watched = watching(SimServer(world, app), "any")
        await asyncio.sleep(8)
        lists = [each for each in told(watched) if each.get("object") == "list"]
        assert [(each["workers"], len(each["data"])) for each in lists] == [
            ("all", 1),
            ("this", 0),
            ("all", 1),
        ]
        assert "TypeError" in lists[1]["message"]
        watched.leave()
        assert watched.task is not None
        await asyncio.wait({watched.task})

    outcome = run(main)
    assert outcome.violation is None, outcome.violation
    assert len([each for each in caplog.messages if each.startswith("others_not_seen ")]) == 1


def with_object(message: Any) -> Any:
    """A message about a stream, as a worker's own are."""
    return {"object": "stream", **message}
