"""Workers that share their sessions: what clients see of one active stream per session."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.server.support import (
    PATIENCE_S,
    Stack,
    error_of,
    prompt,
    run_async,
    until,
)
from tests.server.workers import settled, settled_file, sharing, workers

SESSION = {"x-session-id": "s"}
both_stores = pytest.mark.parametrize("store", ["sqlite", "valkey"])


class Streamed:
    """A streamed answer, read in a task of its own."""

    def __init__(self, worker: Stack, body: dict[str, Any] | None = None, **headers: str) -> None:
        self.headers: dict[str, str] = {}
        self.events: list[Any] = []
        self._body = body or prompt(stream=True)
        self.task = asyncio.ensure_future(self._read(worker, {**SESSION, **headers}))

    async def _read(self, worker: Stack, headers: dict[str, str]) -> None:
        async with worker.http.stream(
            "POST", "/v1/chat/completions", json=self._body, headers=headers
        ) as response:
            self.headers = dict(response.headers)
            if response.status_code != 200:
                self.events.append(json.loads(await response.aread()))
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self.events.append(json.loads(line.removeprefix("data: ")))

    async def leave(self) -> None:
        """The client goes, before the servers do."""
        self.task.cancel()
        await asyncio.wait({self.task})

    @property
    def code(self) -> str | None:
        """Of the error that ended it."""
        return self.events[-1].get("error", {}).get("code") if self.events else None

    async def begun(self) -> Streamed:
        await until(lambda: len(self.events) > 1 or self.task.done(), "the first chunks")
        return self

    async def over(self) -> str | None:
        await self.task
        return self.code


async def becomes(asked: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """What another worker says of a stream comes a moment later."""
    deadline = time.monotonic() + PATIENCE_S
    answer = await asked()
    while answer != expected:
        assert time.monotonic() < deadline, f"{answer} and not {expected}"
        await asyncio.sleep(0.01)
        answer = await asked()


@pytest.mark.socket
@both_stores
def test_the_newest_prompt_wins_at_another_worker(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompt 1 ends `superseded` though another worker has it; both are in the note's log lines."""

    async def main() -> None:
        async with sharing(store, tmp_path) as (first, second):
            one = await Streamed(first).begun()
            two = await Streamed(second).begun()
            assert await one.over() == "superseded"
            assert two.code is None
            assert len(first.fake.active_calls) == 1
            tokens = [int(each.headers["x-fencing-token"]) for each in (one, two)]
            assert tokens[0] < tokens[1]
            names = [each.registry.worker for each in (first, second)]
            session = "session=devkey/s"
            traces = [each.headers["x-trace-id"] for each in (one, two)]
            assert [line for line in caplog.messages if f" {session}" in line or traces[0] in line][
                :4
            ] == [
                f"stream_start trace={traces[0]} trace_id={traces[0]} {session} worker={names[0]}",
                f"stream_cancelled trace={traces[0]} reason=new_stream_registered "
                f"worker={names[0]}",
                *[
                    line
                    for line in caplog.messages
                    if line.startswith(f"stream_end trace={traces[0]}")
                ],
                f"prev_stream_finished_cleanly {session} trace={traces[0]} worker={names[1]}",
            ]
            await two.leave()
            await second.quiet()

    caplog.set_level(logging.INFO)
    run_async(main())


@pytest.mark.socket
def test_prompts_of_other_sessions_go_on(tmp_path: Path) -> None:
    """A session is no other worker's business but of those that have a prompt of it."""

    async def main() -> None:
        async with workers(await settled_file(tmp_path)) as (first, second):
            one = await Streamed(first).begun()
            two = await Streamed(second, **{"x-session-id": "other"}).begun()
            assert not one.task.done()
            assert not two.task.done()
            await one.leave()
            await two.leave()

    run_async(main())


@pytest.mark.socket
@both_stores
def test_strategies_reach_over_workers(store: str, tmp_path: Path) -> None:
    """A busy session is busy whichever worker is asked: 409 for reject, a queue for enqueue."""

    async def main() -> None:
        async with sharing(store, tmp_path, queue_max=1) as (first, second):
            one = await Streamed(first).begun()
            rejected = await second.post(
                prompt(), headers={**SESSION, "x-session-strategy": "reject"}
            )
            assert (rejected.status_code, error_of(rejected)["code"]) == (409, "session_busy")
            enqueue = {**SESSION, "x-session-strategy": "enqueue"}
            two = Streamed(second, **enqueue)
            await until(lambda: second.states() == ["WAITING"], "it waits")
            full = await first.post(prompt(), headers=enqueue)
            assert (full.status_code, error_of(full)["code"]) == (429, "queue_full")
            await one.leave()
            await two.begun()
            assert second.states() == ["ACTIVE"]
            await two.leave()

    run_async(main())


@pytest.mark.socket
def test_a_client_that_leaves_while_it_waits_leaves_the_queue(tmp_path: Path) -> None:
    """The next one in the queue is let in, not the one that has left."""

    async def main() -> None:
        async with workers(await settled_file(tmp_path)) as (first, second):
            enqueue = {"x-session-strategy": "enqueue"}
            one = await Streamed(first).begun()
            two = Streamed(second, **enqueue)
            await until(lambda: second.states() == ["WAITING"], "the second waits")
            three = Streamed(second, **enqueue)
            await until(lambda: len(second.states()) == 2, "the third waits")
            await two.leave()
            await until(lambda: len(second.states()) == 1, "the second has left")
            await one.leave()
            await three.begun()
            assert second.states() == ["ACTIVE"]
            await three.leave()

    run_async(main())


@pytest.mark.socket
@both_stores
def test_a_repetition_is_known_at_another_worker(store: str, tmp_path: Path) -> None:
    """What a library sends again stops no newer prompt; once that is over it may be asked again."""

    async def main() -> None:
        async with sharing(store, tmp_path) as (first, second):
            one = await Streamed(first).begun()
            two = await Streamed(second, prompt("another", stream=True)).begun()
            assert await one.over() == "superseded"
            for worker in (second, first):
                assert await Streamed(worker).over() == "repetition"
            assert not two.task.done()
            await two.leave()
            await second.quiet()
            three = await Streamed(second).begun()
            assert three.code is None
            await three.leave()

    run_async(main())


# ---- what a client asks of its streams ------------------------------------------------------


@pytest.mark.socket
@both_stores
def test_a_stream_is_cancelled_at_another_worker(store: str, tmp_path: Path) -> None:
    """By name; a second time it was stopped before, and another key knows of no such stream."""

    async def main() -> None:
        async with sharing(store, tmp_path, api_keys="one,two") as (first, second):
            mine, theirs = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
            one = await Streamed(first, **mine).begun()
            path = f"/v1/streams/{one.headers['x-trace-id']}"
            refused = await second.http.post(f"{path}/cancel", headers=theirs)
            assert (refused.status_code, error_of(refused)["code"]) == (404, "stream_not_found")
            assert (await second.http.post(f"{path}/cancel", headers=mine)).json()["cancelled"]
            assert await one.over() == "cancelled"
            await first.quiet()

            async def state() -> Any:
                return (await second.http.get(path, headers=mine)).json()["state"]

            await becomes(state, "ENDED")
            again = await second.http.post(f"{path}/cancel", headers=mine)
            assert not again.json()["cancelled"]

    run_async(main())


@pytest.mark.socket
@both_stores
def test_a_key_sees_its_streams_at_every_worker(store: str, tmp_path: Path) -> None:
    """Those that run, with their text so far, and those that ended; nobody else's."""

    async def main() -> None:
        async with sharing(store, tmp_path, api_keys="one,two") as (first, second):
            mine, theirs = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
            one = await Streamed(first, **mine).begun()
            two = await Streamed(second, **mine).begun()
            assert await one.over() == "superseded"
            names = [each.headers["x-trace-id"] for each in (two, one)]

            async def listed(worker: Stack, headers: dict[str, str]) -> list[Any]:
                answer = await worker.http.get("/v1/streams", headers=headers)
                data = answer.json()["data"]
                return sorted((each["trace_id"], each["state"], each["reason"]) for each in data)

            expected = sorted(
                [(names[0], "ACTIVE", None), (names[1], "ENDED", "superseded")],
            )
            for worker in (first, second):
                await becomes(partial(listed, worker, mine), expected)
                assert await listed(worker, theirs) == []
            answer = await first.http.get(f"/v1/streams/{names[0]}", headers=mine)
            assert answer.json()["text"]
            assert answer.json()["chunks"] > 0
            unknown = await first.http.get(f"/v1/streams/{names[0]}", headers=theirs)
            assert unknown.status_code == 404
            await two.leave()

    run_async(main())


@pytest.mark.socket
@both_stores
def test_a_stream_that_waits_knows_its_place_over_all_workers(store: str, tmp_path: Path) -> None:
    """Whichever worker is asked, as with one process; it moves up when one before it leaves."""

    async def main() -> None:
        async with sharing(store, tmp_path) as (first, second):
            enqueue = {"x-session-strategy": "enqueue"}
            streams = [await Streamed(first).begun()]

            def waiting() -> int:
                return (first.states() + second.states()).count("WAITING")

            for number, worker in enumerate((second, first, second), 1):
                streams.append(Streamed(worker, **enqueue))
                await until(lambda: waiting() == number, "it waits")  # noqa: B023

            async def places(worker: Stack) -> list[Any]:
                data = (await worker.http.get("/v1/streams")).json()["data"]
                running = [each for each in data if each["state"] != "ENDED"]
                return sorted((each["queue_position"] for each in running), key=str)

            for worker in (first, second):
                await becomes(partial(places, worker), [1, 2, 3, None])
                for each in (await worker.http.get("/v1/streams")).json()["data"]:
                    alone = await worker.http.get(f"/v1/streams/{each['trace_id']}")
                    assert alone.json()["queue_position"] == each["queue_position"]
            await streams[1].leave()
            for worker in (first, second):
                await becomes(partial(places, worker), [1, 2, None])
            for each in reversed(streams):
                await each.leave()

    run_async(main())


@pytest.mark.socket
def test_a_worker_that_others_with_other_limits_have_replaced_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompts, /readyz and cancel get 503 with the setting and both values, and no traceback.

    /healthz says so of the worker that is asked, and of no other.
    """

    async def main() -> None:
        sessions = await settled_file(tmp_path)
        async with (
            workers(sessions, 1) as (idle,),
            workers(sessions, 1, grace_seconds=1.5) as (newer,),
        ):
            running = await Streamed(newer).begun()
            cancel = f"/v1/streams/{running.headers['x-trace-id']}/cancel"
            for answer in (
                await idle.post(prompt()),
                await idle.http.get("/readyz"),
                await idle.http.post(cancel),
            ):
                assert answer.status_code == 503
                assert error_of(answer)["code"] == "sessions_unavailable"
                says = "JARVIS_GRACE_SECONDS=1.5 where this one has 2;"
                assert says in error_of(answer)["message"]
                assert answer.headers["retry-after"] == "1"
                assert answer.headers.get("x-should-retry", "true") == "true"
            for worker, store in ((idle, "other_settings"), (newer, "ok")):
                sessions = (await worker.http.get("/healthz")).json()["sessions"]
                assert sessions == {
                    "worker": worker.registry.worker,
                    "streams_are": "of_this_worker",
                    "store": store,
                }
            assert (await newer.http.get("/readyz")).json() == {
                "status": "ok",
                "sessions": sessions,
            }
            await running.leave()

    run_async(main())
    assert not [line for line in caplog.messages if "lease_not_left" in line]


# ---- a store that is away -------------------------------------------------------------------


async def in_time(worker: Stack) -> Streamed:
    """A stream that has begun although call and lease are short.

    A machine that stands still for as long makes the worker refuse it, or renew too late.
    """
    while (stream := await Streamed(worker).begun()).code is not None:
        assert stream.code in ("sessions_unavailable", "session_lease_lost")
    return stream


@pytest.mark.socket
def test_without_the_store_nothing_new_begins_and_what_runs_ends_with_its_lease(
    tmp_path: Path,
) -> None:
    """503 for a prompt and for /readyz, `session_lease_lost` for a stream; then it heals."""
    short = {"lease_seconds": 1.0, "sessions_call_seconds": 0.2}

    async def main() -> None:
        sessions = await settled_file(tmp_path, **short)
        async with workers(sessions, 1, **short) as (worker,):
            assert (await worker.http.get("/healthz")).json()["sessions"]["store"] == "ok"
            one = await in_time(worker)
            blocks = sqlite3.connect(sessions.removeprefix("sqlite:"), isolation_level=None)
            blocks.execute("BEGIN EXCLUSIVE")
            refused = await worker.post(prompt(), headers=SESSION)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "sessions_unavailable")
            assert refused.headers["retry-after"] == "1"
            assert (await worker.http.get("/readyz")).status_code == 503
            health = (await worker.http.get("/healthz")).json()
            assert health["sessions"]["store"] == "unreachable"
            assert await one.over() == "session_lease_lost"
            blocks.close()
            # The one that was refused may be known to the store, and leaves.
            two = await in_time(worker)
            assert (await worker.http.get("/healthz")).json()["sessions"]["store"] == "ok"
            await two.leave()

    run_async(main())


@pytest.mark.socket
def test_a_valkey_that_hangs_ends_streams_with_their_leases_and_comes_back(tmp_path: Path) -> None:
    """As above; the server answers 503 itself, and goes on when the store does."""
    short = {"lease_seconds": 1.0, "sessions_call_seconds": 0.2}

    async def main() -> None:
        async with settled("valkey", tmp_path, **short) as url, workers(url, 1, **short) as (one,):
            running = await in_time(one)
            async with Redis.from_url(url) as client:
                await client.execute_command("CLIENT", "PAUSE", "2500", "ALL")
            refused = await one.post(prompt(), headers=SESSION)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "sessions_unavailable")
            assert await running.over() == "session_lease_lost"

            async def begins() -> bool:
                again = await Streamed(one).begun()
                await again.leave()
                return again.code is None

            await becomes(begins, True)

    run_async(main())


@pytest.mark.socket
@both_stores
def test_a_worker_that_leaves_hands_its_sessions_over(store: str, tmp_path: Path) -> None:
    """What it streams ends, what waits there is refused, and who waits elsewhere is let in."""

    async def main() -> None:
        async with sharing(store, tmp_path) as (first, second):
            one = await Streamed(first).begun()
            two = Streamed(second, **{"x-session-strategy": "enqueue"})
            await until(lambda: second.states() == ["WAITING"], "it waits")
            three = Streamed(first, **{"x-session-strategy": "enqueue"})
            await until(lambda: len(first.states()) == 2, "it waits, too")
            first.service.begin_shutdown()
            assert await one.over() == "shutting_down"
            assert await three.over() == "shutting_down"
            await two.begun()
            assert second.states() == ["ACTIVE"]
            await two.leave()

    run_async(main())
