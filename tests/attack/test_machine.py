"""A machine that has no more of something: descriptors, readers of the log, patience at the end."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.attack.support import HEALTH, SERVE, Raw, chat, status_of
from tests.clients.support import in_thread
from tests.limits import HANGS_S
from tests.server.support import (
    CLIENTS,
    REPOSITORY,
    free_port,
    is_listening,
    run_async,
    until,
)

pytestmark = [pytest.mark.attack, pytest.mark.socket]


@contextmanager
def started(
    *, descriptors: int | None = None, stdio: Any = None, **environment: str
) -> Iterator[Any]:
    """A server process with few descriptors, or with its output to somewhere: process and port."""

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    port = free_port()
    # As many at once as ask: none waits for its turn in silence.
    fake = FakeOllama(replace(profile_named("flood"), num_parallel=2_000), wall_clock_ns)
    with in_thread(lambda: running(fake)) as front:
        child = subprocess.Popen(
            [sys.executable, *SERVE[:-1], str(port)],
            cwd=REPOSITORY,
            env={
                **{name: text for name, text in os.environ.items() if "JARVIS_" not in name},
                "OLLAMA_HOST": front.base_url,
                "JARVIS_DEFAULT_MODEL": "fake:empty",
                **environment,
            },
            stdout=stdio or subprocess.DEVNULL,
            stderr=stdio or subprocess.DEVNULL,
            preexec_fn=limit,
        )
        try:
            yield child, port
        finally:
            child.kill()
            child.wait()


async def listens(child: Any, port: int) -> None:
    await until(lambda: is_listening(port) or child.poll() is not None, "it listens", 120)
    assert child.poll() is None


async def ask(port: int, request: bytes) -> bytes:
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
    return await raw.exchange(request)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_shortage_of_descriptors_passes(client: str) -> None:
    """The first prompts find none left; when the crowd has gone, prompts are answered."""

    async def main() -> None:
        with started(
            descriptors=64, JARVIS_OLLAMA_CLIENT=client, JARVIS_FIRST_CHUNK_SECONDS="2"
        ) as (child, port):
            await listens(child, port)
            crowd = [Raw(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(90)]
            for number, raw in enumerate(crowd):
                await raw.send(chat(session_id=str(number), stream=True))
            first = [asyncio.create_task(raw.reader.read(15)) for raw in crowd]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            for raw in crowd:
                raw.close()
            await asyncio.wait(first)

            async def answers() -> int:
                try:
                    return status_of(await ask(port, chat(session_id="after")))
                except ConnectionError:
                    return 0

            # Each answer is a turn in which the server closes more of those that have left.
            while (status := await answers()) != 200:
                assert status in (0, 503), "an error is remembered"

    run_async(main(), HANGS_S)


def test_idle_connections_are_no_flood_of_lines() -> None:
    """With every descriptor taken by idlers little is logged; they are closed, and it goes on."""

    async def main() -> None:
        out, into = os.pipe()
        logged = 0

        def read_log() -> None:
            nonlocal logged
            while part := os.read(out, 1 << 20):
                logged += len(part)

        with started(descriptors=64, stdio=into, JARVIS_REQUEST_HEAD_SECONDS="1") as (child, port):
            os.close(into)
            reading = threading.Thread(target=read_log)
            reading.start()
            await listens(child, port)
            crowd = [Raw(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(90)]
            await asyncio.gather(*(raw.read_to_end() for raw in crowd))
            for raw in crowd:
                raw.close()
            assert status_of(await ask(port, HEALTH)) == 200
            child.send_signal(signal.SIGTERM)
            await until(lambda: child.poll() is not None, "the process is gone", HANGS_S)
        reading.join()
        os.close(out)
        assert logged < 100_000

    run_async(main(), HANGS_S)


@pytest.mark.parametrize("where", ["pipe", "terminal"])
def test_a_log_that_nobody_takes_stops_nothing(where: str) -> None:
    """700 prompts are answered though no line is read, /healthz too, and SIGTERM ends it."""

    async def main() -> None:
        out, into = os.pipe() if where == "pipe" else pty.openpty()
        if where == "terminal":
            # Ctrl-S.
            termios.tcflow(into, termios.TCOOFF)
        with started(stdio=into) as (child, port):
            await listens(child, port)
            body = json.dumps({"prompt": "x"}).encode()
            raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
            request = (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer "
                b"devkey\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            for _ in range(700 if where == "pipe" else 20):
                await raw.send(request)
                head = await raw.read_head()
                assert status_of(head) == 200
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                await raw.reader.readexactly(length)
            raw.close()
            assert status_of(await ask(port, HEALTH)) == 200
            child.send_signal(signal.SIGTERM)
            await until(lambda: child.poll() is not None, "the process is gone", HANGS_S)
        os.close(into)
        os.close(out)

    run_async(main(), HANGS_S)


@pytest.mark.parametrize("client", CLIENTS)
def test_sigterm_tells_hundreds_of_streams(client: str) -> None:
    """Each of 300 streams (100 with threads) gets an error message and [DONE]; exit code 0."""
    count = 300 if client == "async" else 100

    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
        try:
            with started(
                descriptors=16384, JARVIS_OLLAMA_CLIENT=client, JARVIS_CONNECT_SECONDS="60"
            ) as (child, port):
                await listens(child, port)
                raws: list[Raw] = []
                while len(raws) < count:
                    # No more at once than the server's backlog holds.
                    batch = [
                        Raw(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(50)
                    ]
                    for number, raw in enumerate(batch, len(raws)):
                        model = "fake:hang-midstream"
                        await raw.send(chat(session_id=str(number), model=model, stream=True))
                    for raw in batch:
                        await raw.reader.readuntil(b"data: ")
                    raws += batch
                child.send_signal(signal.SIGTERM)
                ends = await asyncio.gather(*(raw.read_to_end() for raw in raws))
                for raw in raws:
                    raw.close()
                told = sum(b'"error"' in end and b"data: [DONE]" in end for end in ends)
                assert told == count
                await until(lambda: child.poll() is not None, "the process is gone", HANGS_S)
                assert child.returncode == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run_async(main(), HANGS_S)


SECRET = "s3cr3t-of-ours"
BAD_SETTINGS: dict[str, dict[str, str]] = {
    "a key with a blank": {"JARVIS_API_KEYS": f"{SECRET},bad key"},
    "a key beyond ASCII": {"JARVIS_API_KEYS": f"{SECRET},é"},
    "only commas": {"JARVIS_API_KEYS": ","},
    "a password in the address": {"OLLAMA_HOST": f"ftp://user:{SECRET}@host"},
    "a password and a bad port": {"OLLAMA_HOST": f"https://user:{SECRET}@host:99999"},
    "an endless grace": {"JARVIS_GRACE_SECONDS": "inf", "JARVIS_API_KEYS": SECRET},
    "no number": {"JARVIS_PING_SECONDS": "soon", "JARVIS_API_KEYS": SECRET},
    "a key file that is not there": {"JARVIS_API_KEYS_FILE": "/nowhere", "JARVIS_API_KEYS": SECRET},
    "several workers": {"WEB_CONCURRENCY": "2", "JARVIS_API_KEYS": SECRET},
}


# Each with our own launcher, but for workers: it is one process, whatever hosters put into its
# environment. With uvicorn's what else is told by another place.
STARTS = [
    *((name, "own") for name in BAD_SETTINGS if name != "several workers"),
    ("a key with a blank", "uvicorn"),
    ("a password and a bad port", "uvicorn"),
    ("several workers", "uvicorn"),
]


@pytest.mark.parametrize(("name", "launcher"), STARTS)
def test_bad_settings_are_told_without_secrets(name: str, launcher: str) -> None:
    """The start is refused in a sentence that names the setting, without traceback or secret."""
    command = SERVE if launcher == "own" else ("-m", "uvicorn", "server.app:app", "--port", "0")
    environment = {key: text for key, text in os.environ.items() if "JARVIS_" not in key}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**environment, **BAD_SETTINGS[name]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    # uvicorn's supervisor ends with 0 when its workers have refused to start.
    assert done.returncode != 0 or name == "several workers", said
    assert SECRET not in said
    assert "Traceback" not in said, said
    setting = next(iter(BAD_SETTINGS[name]))
    assert setting in said
