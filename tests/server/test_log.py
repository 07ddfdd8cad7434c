"""A log that nobody takes stops nobody, and what is lost of it is counted."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from server import log
from server.outlet import PATIENCE_S, Outlet
from tests.server.support import DEVKEY, free_port, process

pytestmark = pytest.mark.socket

# The smallest pipe that Linux makes.
PIPE_BYTES = 4096


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def read_until(fd: int, part: bytes) -> bytes:
    data = b""
    while part not in data:
        data += os.read(fd, 65536)
    return data


def test_lines_come_out_in_order() -> None:
    """What is written is in the file when `drain` has returned, whole and in order."""
    with small_pipe() as (reading, writing):
        outlet = Outlet(writing)
        for number in range(100):
            outlet.write(f"line {number}\n")
            outlet.flush()
        outlet.drain()
        assert os.read(reading, 65536).decode() == "".join(f"line {n}\n" for n in range(100))


def test_nobody_waits_for_a_reader_and_what_is_lost_is_counted() -> None:
    """Lines beyond the limit are dropped at once; when somebody reads, their number is told."""
    with small_pipe() as (reading, writing):
        outlet = Outlet(writing, waiting_max_bytes=10_000)
        for number in range(5_000):
            outlet.write(f"{number:099}\n")
            outlet.flush()
        assert outlet._waiting_bytes <= 10_000
        assert outlet._dropped > 0
        told = read_until(reading, b"log_lines_dropped ")
        lines = [line for line in told.splitlines() if len(line) == 99]
        assert lines == sorted(lines)


def test_what_the_process_says_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that says where it listens comes out in turn, and waits for no terminal."""
    with small_pipe() as (reading, writing), os.fdopen(os.dup(writing), "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr(log, "_outlets", {})
        for number in range(100):
            log.say(f"{number:0199}", stream)
        assert read_until(reading, f"{99:0199}\n".encode()).count(b"\n") == 100
    kept = io.StringIO()
    log.say("a line", kept)
    assert kept.getvalue() == "a line\n"


def test_an_end_is_patient_once() -> None:
    """At the end of the process a log that nobody takes is waited for, but not for each line."""
    with small_pipe() as (_, writing):
        outlet = Outlet(writing)
        outlet.write("x" * (2 * PIPE_BYTES))
        outlet.end()
        began = time.monotonic()
        for _ in range(100):
            outlet.write("a line\n")
            outlet.flush()
        # Not a matter of the machine's speed: a hundred times the patience would be 30 s.
        assert time.monotonic() - began < 50 * PATIENCE_S


def test_what_is_not_stdout_or_stderr_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Only handlers of the process's own output are changed, and each stream has one thread."""
    with small_pipe() as (_, writing), os.fdopen(os.dup(writing), "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr(log, "_outlets", {})
        file = logging.FileHandler(f"{tmp_path}/log")
        ours, uvicorns = logging.StreamHandler(), logging.StreamHandler()
        kept = io.StringIO()
        other = logging.StreamHandler(kept)
        monkeypatch.setattr(logging.getLogger("onestream"), "handlers", [ours, file, other])
        monkeypatch.setattr(logging.getLogger("uvicorn"), "handlers", [uvicorns])
        monkeypatch.setattr(logging.getLogger("asyncio"), "handlers", [])
        log.never_block()
        assert isinstance(ours.stream, Outlet)
        assert uvicorns.stream is ours.stream
        assert not isinstance(file.stream, Outlet)
        assert other.stream is kept
        file.close()


@pytest.mark.parametrize("launcher", [("-m", "uvicorn", "server.app:app"), ("-m", "server")])
def test_a_server_whose_log_nobody_reads_answers_and_ends(launcher: tuple[str, ...]) -> None:
    """Hundreds of lines after its pipe is full it serves, and a SIGTERM ends it."""
    port = free_port()
    environment = {"OLLAMA_HOST": "127.0.0.1:1", "JARVIS_GRACE_SECONDS": "0"}
    with process(*launcher, "--port", str(port), **environment) as child:
        assert child.stdout is not None
        fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=DEVKEY, timeout=10, trust_env=False) as http:
            deadline = time.monotonic() + 30
            while True:
                try:
                    http.get("/healthz")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline, "it does not listen"
                    time.sleep(0.05)
            # Each prompt is logged with two lines at least, 100 bytes and more.
            for _ in range(100):
                answer = http.post("/v1/chat/completions", json={"prompt": "x", "model": "m"})
                assert answer.status_code == 503
            assert http.get("/healthz").status_code == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) in (0, -signal.SIGTERM)
