"""DaemonExecutor: bounded, cancellable while queued, and no reason for a process to stay."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import wait

import pytest

from registry.daemon_executor import DaemonExecutor, ExecutorFull
from tests.server.support import PATIENCE_S, REPOSITORY


def test_jobs_run_in_daemon_threads_that_end() -> None:
    """Results and exceptions come back; a quiet executor has no threads."""
    executor = DaemonExecutor(2)
    assert executor.submit(lambda: threading.current_thread().daemon).result(PATIENCE_S)
    assert executor.submit(pow, 2, exp=3).result(PATIENCE_S) == 8
    with pytest.raises(ZeroDivisionError):
        executor.submit(lambda: 1 // 0).result(PATIENCE_S)
    executor.shutdown()
    assert executor.threads == 0


def test_jobs_beyond_the_limit_wait_and_can_be_cancelled() -> None:
    """At most threads_max run, queue_max wait, the rest is refused; a cancelled one never runs."""
    executor = DaemonExecutor(1, queue_max=2)
    gate, ran = threading.Event(), []
    running = executor.submit(gate.wait, PATIENCE_S)
    queued = executor.submit(ran.append, "queued")
    cancelled = executor.submit(ran.append, "cancelled")
    assert executor.threads == 1
    with pytest.raises(ExecutorFull):
        executor.submit(ran.append, "refused")
    assert cancelled.cancel()
    after = executor.submit(ran.append, "in its place")
    assert not running.cancel()
    gate.set()
    wait([queued, after], PATIENCE_S)
    assert ran == ["queued", "in its place"]
    executor.shutdown()


def test_shutdown_takes_no_more_and_can_drop_the_queue() -> None:
    """Without wait it returns while a job is blocked; queued jobs are cancelled on request."""
    executor = DaemonExecutor(1)
    gate = threading.Event()
    blocked = executor.submit(gate.wait, PATIENCE_S)
    queued = executor.submit(print, "never")
    executor.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(print)
    gate.set()
    assert blocked.result(PATIENCE_S)
    executor.shutdown(wait=True)
    assert executor.threads == 0


def test_no_thread_means_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread the caller gets an error, and the place is free again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    executor = DaemonExecutor(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            executor.submit(print)
    assert executor.threads == 0
    assert executor.submit(pow, 2, 2).result(PATIENCE_S) == 4


@pytest.mark.socket
def test_a_blocked_job_does_not_keep_the_process() -> None:
    """A process with a thread blocked for ever still ends by itself."""
    code = (
        "import threading; from registry.daemon_executor import DaemonExecutor; "
        "DaemonExecutor().submit(threading.Event().wait)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=PATIENCE_S, check=True)


@pytest.mark.parametrize("bad", [{"threads_max": 0}, {"queue_max": -1}])
def test_limits_that_allow_nothing_are_refused(bad: dict[str, int]) -> None:
    """At least one thread; a queue may be empty, not shorter."""
    with pytest.raises(ValueError, match="threads_max"):
        DaemonExecutor(**bad)
