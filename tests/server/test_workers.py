"""Workers that share their sessions: what clients see of one active stream per session."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.server.support import Stack, error_of, prompt, run_async, until
from tests.server.workers import settled_file, workers

SESSION = {"x-session-id": "s"}


class Streamed:
    """A streamed answer, read in a task of its own."""

    def __init__(self, worker: Stack, **headers: str) -> None:
        self.headers: dict[str, str] = {}
        self.events: list[Any] = []
        self.task = asyncio.ensure_future(self._read(worker, {**SESSION, **headers}))

    async def _read(self, worker: Stack, headers: dict[str, str]) -> None:
        async with worker.http.stream(
            "POST", "/v1/chat/completions", json=prompt(stream=True), headers=headers
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


@pytest.mark.socket
def test_the_newest_prompt_wins_at_another_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompt 1 ends `superseded` though another worker has it; both are in the note's log lines."""

    async def main() -> None:
        async with workers(await settled_file(tmp_path)) as (first, second):
            one = await Streamed(first).begun()
            two = await Streamed(second).begun()
            assert await one.over() == "superseded"
            assert two.code is None
            assert len(first.fake.active_calls) == 1
            tokens = [int(each.headers["x-fencing-token"]) for each in (one, two)]
            assert tokens[0] < tokens[1]
            names = [each.registry.worker for each in (first, second)]
            traces = [each.headers["x-trace-id"] for each in (one, two)]
            assert [line for line in caplog.messages if " session=s" in line or traces[0] in line][
                :4
            ] == [
                f"stream_start trace={traces[0]} trace_id={traces[0]} session=s worker={names[0]}",
                f"stream_cancelled trace={traces[0]} reason=new_stream_registered "
                f"worker={names[0]}",
                *[
                    line
                    for line in caplog.messages
                    if line.startswith(f"stream_end trace={traces[0]}")
                ],
                f"prev_stream_finished_cleanly session=s trace={traces[0]} worker={names[1]}",
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
def test_strategies_reach_over_workers(tmp_path: Path) -> None:
    """A busy session is busy whichever worker is asked: 409 for reject, a queue for enqueue."""

    async def main() -> None:
        async with workers(await settled_file(tmp_path), queue_max=1) as (first, second):
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
