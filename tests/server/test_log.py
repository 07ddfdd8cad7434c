"""A log that nobody takes stops nobody, and what is lost of it is counted."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import httpx
import pytest

from server import log
from server.outlet import PATIENCE_S, Outlet
from tests.limits import HANGS_S
from tests.server.support import DEVKEY, free_port, process

pytestmark = pytest.mark.socket

# The smallest pipe that Linux makes.
PIPE_BYTES = 4096


@contextmanager
def outlet_on_pipe(**limits: int) -> Iterator[tuple[Outlet, int]]:
    """An outlet, and where its lines can be read. At the end its thread has ended, too."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    outlet = Outlet(writing, **limits)
    try:
        yield outlet, reading
    finally:
        # A thread that is blocked in a write gets an error.
        os.close(reading)
        outlet.close()
        os.close(writing)


@contextmanager
def log_on_pipe(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[tuple[TextIO, int]]:
    """A pipe in place of `sys.stdout` or `sys.stderr`, and where it can be read."""
    reading, writing = os.pipe()
    outlets: dict[int, Outlet] = {}
    monkeypatch.setattr(log, "_outlets", outlets)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, name, stream)
        try:
            yield stream, reading
        finally:
            os.close(reading)
            for outlet in outlets.values():
                outlet.close()


def read_until(fd: int, part: bytes) -> bytes:
    data = b""
    while part not in data:
        data += os.read(fd, 65536)
    return data


def test_lines_come_out_in_order() -> None:
    """What is written is in the file when `drain` has returned, whole and in order."""
    with outlet_on_pipe() as (outlet, reading):
        for number in range(100):
            outlet.write(f"line {number}\n")
            outlet.flush()
        outlet.drain()
        assert os.read(reading, 65536).decode() == "".join(f"line {n}\n" for n in range(100))


def test_nobody_waits_for_a_reader_and_what_is_lost_is_counted() -> None:
    """Lines beyond the limit are dropped at once; once the log is read again, it has the number."""
    with outlet_on_pipe(waiting_max_bytes=10_000) as (outlet, reading):
        for number in range(5_000):
            outlet.write(f"{number:099}\n")
            outlet.flush()
        assert outlet._waiting_bytes <= 10_000
        # Its thread may have told it already, if it came to run late.
        told = read_until(reading, b"log_lines_dropped ")
        lines = [line for line in told.splitlines() if len(line) == 99]
        assert lines == sorted(lines)
        assert len(lines) < 5_000


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "onestream-log"]


def test_a_quiet_log_has_no_thread() -> None:
    """The thread ends by itself, and the next line has one again."""
    with outlet_on_pipe() as (outlet, reading):
        assert not log_threads()
        for _ in range(2):
            outlet.write("a line\n")
            (thread,) = log_threads()
            thread.join(30)
            assert not thread.is_alive()
            assert os.read(reading, 100) == b"a line\n"


def test_a_burst_is_written_in_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is woken for each line costs a busy loop more than the writing itself."""
    writes: list[int] = []

    def write(outlet: Outlet, data: bytes) -> None:
        writes.append(data.count(b"\n"))

    monkeypatch.setattr("server.outlet.BATCH_S", 60.0)
    monkeypatch.setattr(Outlet, "_write", write)
    outlet = Outlet(-1)
    outlet.write("at once\n")
    (thread,) = log_threads()
    while not writes:
        thread.join(0.001)
    for _ in range(1_000):
        outlet.write("a line\n")
    assert writes == [1]
    # The end of the process waits for no batch.
    outlet.close()
    assert writes == [1, 1_000]
    thread.join(30)


def test_no_line_is_lost_to_a_thread_that_is_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thread that lingers for no time, so that nearly every line meets one that ends."""
    monkeypatch.setattr("server.outlet.LINGER_S", 0.0)
    lines = 2_000
    with outlet_on_pipe() as (outlet, reading):

        def write(name: str) -> None:
            for number in range(lines):
                outlet.write(f"{name}{number:04}\n")

        writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for writer in writers:
            writer.start()
        told = b""
        while told.count(b"\n") < 2 * lines:
            told += os.read(reading, 65536)
        for writer in writers:
            writer.join()
    for name in "ab":
        own = [line for line in told.decode().split() if line.startswith(name)]
        assert own == [f"{name}{number:04}" for number in range(lines)]


def test_lines_go_out_where_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as is taken, without waiting for a reader: a process at its end has no threads."""

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with outlet_on_pipe() as (outlet, reading):
        # A pipe of one page takes one write.
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4 * PIPE_BYTES)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            for number in range(200):
                outlet.write(f"{number:0199}\n")
            outlet.drain()
            assert PIPE_BYTES <= len(os.read(reading, 65536)) <= 4 * PIPE_BYTES
        outlet.write("the last\n")
        assert b"the last\n" in read_until(reading, b"the last\n")


def test_what_is_logged_while_the_interpreter_ends_comes_out() -> None:
    """By then the thread may have ended, and there is no other: nothing hangs, nothing is lost."""
    code = """
import atexit, logging
from server.outlet import Outlet
outlet = Outlet(2)
log = logging.Logger("log")
log.addHandler(logging.StreamHandler(outlet))
class Late:
    def __del__(self):
        log.error("at the very end")
atexit.register(log.error, "after the exit began")
log.error("before")
outlet.end()
outlet.close()
late = Late()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.stderr == "before\nafter the exit began\nat the very end\n"


def test_what_the_process_says_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that says where it listens comes out in turn, and waits for no terminal."""
    with log_on_pipe(monkeypatch, "stdout") as (stream, reading):
        for number in range(100):
            log.say(f"{number:0199}", stream)
        assert read_until(reading, f"{99:0199}\n".encode()).count(b"\n") == 100
    kept = io.StringIO()
    log.say("a line", kept)
    assert kept.getvalue() == "a line\n"


def test_an_end_is_patient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the process a log that nobody takes is waited for, but not for each line."""
    waits_s: list[float | None] = []
    with outlet_on_pipe() as (outlet, _):
        this_thread, wait_for = threading.current_thread(), outlet._changed.wait_for

        def wait_and_note(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
            if threading.current_thread() is this_thread:
                waits_s.append(timeout)
            return wait_for(predicate, timeout)

        monkeypatch.setattr(outlet._changed, "wait_for", wait_and_note)
        outlet.write("x" * (2 * PIPE_BYTES))
        outlet.end()
        for _ in range(100):
            outlet.write("a line\n")
            outlet.flush()
        assert waits_s == [PATIENCE_S] + [0.0] * 99


def test_what_is_not_stdout_or_stderr_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Only handlers of the process's own output are changed, and each stream has one thread."""
    with log_on_pipe(monkeypatch, "stderr"):
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


@pytest.mark.parametrize(
    "launcher",
    [
        ("-m", "server"),
        pytest.param(("-m", "uvicorn", "server.app:app"), marks=pytest.mark.thorough),
    ],
)
def test_a_server_whose_log_nobody_reads_answers_and_ends(launcher: tuple[str, ...]) -> None:
    """Hundreds of lines after its pipe is full it serves, and a SIGTERM ends it."""
    port = free_port()
    environment = {"OLLAMA_HOST": "127.0.0.1:1", "JARVIS_GRACE_SECONDS": "0"}
    with process(*launcher, "--port", str(port), **environment) as child:
        assert child.stdout is not None
        fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=DEVKEY, timeout=HANGS_S, trust_env=False) as http:
            deadline = time.monotonic() + HANGS_S
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
        assert child.wait(HANGS_S) in (0, -signal.SIGTERM)
