"""The note's own test: its curl lines, against `python -m uvicorn server.app:app`."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

from sim.bench.demo import curl_line
from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server.support import (
    CLIENTS,
    PATIENCE_S,
    Output,
    content_of,
    events,
    free_port,
    process,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket

CURL = """
curl -sN -X POST http://localhost:{port}/v1/chat/completions \\
  -H "Authorization: Bearer devkey" \\
  -H "Content-Type: application/json" \\
  -d '{{"prompt":"{text}","stream":true}}'
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("client", CLIENTS)
def test_the_notes_two_prompts(client: str) -> None:
    """Prompt 2 without stopping prompt 1: no hang, and the log lines in the note's order."""

    async def main() -> None:
        port = free_port()
        fake = FakeOllama(replace(profile_named("normal"), chunk_s=0.02, load_s=0.1), wall_clock_ns)
        async with running(fake) as front:
            command = ("-m", "uvicorn", "server.app:app", "--port", str(port))
            environment = {"OLLAMA_HOST": front.base_url, "JARVIS_OLLAMA_CLIENT": client}
            with process(*command, **environment) as child:
                output = Output(child)
                await asyncio.to_thread(output.wait_for, "Uvicorn running")
                first = asyncio.create_task(asyncio.to_thread(curl, port, "very long task"))
                await until(lambda: fake.calls and fake.calls[0].chunks > 3, "the first streams")
                second = events(await asyncio.to_thread(curl, port, "new task"))
                found = events(await first)
                await asyncio.to_thread(output.wait_for, "stream_end")
            assert content_of(second).startswith("new task")
            assert second[-1] == "[DONE]"
            assert content_of(found).startswith("very long task")
            assert [found[-2]["error"]["code"], found[-1]] == ["superseded", "[DONE]"]
            noted = [line for line in output.lines if line.startswith(("stream_", "prev_"))]
            assert [line.split()[0] for line in noted[:5]] == [
                "stream_start",
                "stream_cancelled",
                "prev_stream_finished_cleanly",
                "stream_end",
                "stream_start",
            ]
            old, new = noted[0].split()[1], noted[4].split()[1]
            name = old.removeprefix("trace=")
            assert noted[0] == f"stream_start {old} trace_id={name} session=default"
            assert noted[1] == f"stream_cancelled {old} reason=new_stream_registered"
            assert noted[2] == f"prev_stream_finished_cleanly session=default {old}"
            assert noted[3].startswith(
                f"stream_end {old} stream_id={name} session=default duration_"
            )
            assert new != old

    run_async(main())


def curl(port: int, text: str) -> str:
    command = CURL.format(port=port, text=text)
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_command_that_the_demo_prints_can_be_run() -> None:
    """As it stands, by who wants to see it again: the server takes it, and answers."""

    async def main() -> None:
        async with stack() as server:
            command = shlex.split(curl_line(server.url, "fake:normal", "new task").lstrip(" $"))
            answer = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=True
            )
            found = events(answer.stdout)
            assert content_of(found).startswith("new task")
            assert found[-1] == "[DONE]"

    run_async(main())
