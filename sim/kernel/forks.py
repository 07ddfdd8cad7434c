"""A function in a fork of this process: what it changes ends with the fork."""

from __future__ import annotations

import math
import os
import pickle
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

# Bound here: within an execution others stand there, and a program's tests may replace them.
_pipe, _kill, _waitpid, _leave, _read = os.pipe, os.kill, os.waitpid, os._exit, os.read
_poll: Callable[[], Any] | None = getattr(select, "poll", None)
_mask: Callable[..., Any] | None = getattr(signal, "pthread_sigmask", None)
_now = time.perf_counter
_fork: Callable[[], int] | None = getattr(os, "fork", None)


LATER_S = 3.0
"""How long after its time a fork is ended: in it a watchdog ends what it can by then."""

# Killed, and perhaps not over yet.
_ended: list[int] = []


class ForkEnded(RuntimeError):
    """A fork ended before it had answered."""


class ForkTooLate(ForkEnded):
    """A fork had not answered in time, and was ended."""


def are_possible() -> bool:
    """Whether this system can fork; Windows cannot."""
    return _fork is not None


def forked(life: Callable[[], object]) -> int:
    """The id of a fork of this process, which lives as long as this function runs in it.

    Python warns of forks where other threads run: none of them is needed here. No signal comes in
    between, whose handler would raise where neither of the two is ready for it: in the fork it
    would unwind what its parent is about to do.
    """
    assert _fork is not None
    assert _mask is not None
    _collect_ended()
    # What is not written yet would be written by both.
    _flush()
    before = _mask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = _fork()
        if pid == 0:
            with _leaving():
                _mask(signal.SIG_SETMASK, before)
                life()
    finally:
        try:
            _mask(signal.SIG_SETMASK, before)
        except BaseException:
            # By the handler of one that had to wait.
            if pid > 0:
                end(pid)
            raise
    return pid


def in_a_fork(function: Callable[[], T], seconds: float = math.inf) -> T:
    """What the function returns in a fork, pickled: so it has to be plain data.

    Raises what the function raises, ForkEnded, and ForkTooLate if that takes longer.
    """
    reading, writing = _pipe()

    def answer_it() -> None:
        os.close(reading)
        _write(writing, _answered(function))

    pid = forked(answer_it)
    try:
        os.close(writing)
        answer = _read_all(reading, _now() + seconds)
    except BaseException:
        end(pid)
        raise
    finally:
        os.close(reading)
    status = _status_of(pid)
    if not answer:
        raise ForkEnded(_words_of(status))
    has_returned, value = pickle.loads(answer)
    if not has_returned:
        raise value
    result: T = value
    return result


def _read_all(descriptor: int, until: float) -> bytes:
    """Up to the end of the stream. Raises ForkTooLate at this reading of `perf_counter`."""
    assert _poll is not None
    polled = _poll()
    polled.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    while True:
        left_s = until - _now()
        if not polled.poll(None if left_s == math.inf else max(0.0, left_s) * 1000):
            raise ForkTooLate("had not answered in time, and was ended")
        part = _read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


@contextmanager
def _leaving() -> Iterator[None]:
    """The rest of a fork's life; afterwards it is over, without the clean-up of its parent."""
    status = 1
    try:
        yield
        _flush()
        status = 0
    except KeyboardInterrupt:
        # It reaches the parent as well.
        status = 130
    except BaseException:
        traceback.print_exc()
        _flush()
    finally:
        _leave(status)


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        _kill(pid, signal.SIGKILL)
    _status_of(pid)


def end_group(pid: int) -> None:
    """A fork that is the leader of a group, and the forks that it has made.

    Their status is collected when another fork is made: the system takes some ms to free them.
    """
    for number in (-pid, pid):
        with suppress(ProcessLookupError):
            _kill(number, signal.SIGKILL)
    _ended.append(pid)


def _collect_ended() -> None:
    for pid in tuple(_ended):
        try:
            is_over = _waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            is_over = True
        if is_over:
            _ended.remove(pid)


def _answered(function: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, function()))
    except Exception as exc:
        try:
            return pickle.dumps((False, exc))
        except Exception:
            return pickle.dumps((False, RuntimeError(f"in a fork: {exc!r}")))


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as stream:
        stream.write(data)


def _status_of(pid: int) -> int | None:
    """None if somebody else has asked for it."""
    try:
        return os.waitstatus_to_exitcode(_waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def _words_of(status: int | None) -> str:
    if status is None:
        return "ended before it was over"
    if status >= 0:
        return f"ended with exit code {status} before it was over"
    return f"was ended by {signal.Signals(-status).name} before it was over"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None without a terminal, and closed in some tests.
        with suppress(Exception):
            stream.flush()
