"""A function in a fork of this process: what it changes ends with the fork."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

# Bound here: within an execution others stand there, and a program's tests may replace them.
_pipe, _kill, _waitpid, _leave = os.pipe, os.kill, os.waitpid, os._exit
_fork: Callable[[], int] | None = getattr(os, "fork", None)


# Killed, and perhaps not over yet.
_ended: list[int] = []


class ForkEnded(RuntimeError):
    """A fork ended before it had answered."""


def are_possible() -> bool:
    """Whether this system can fork; Windows cannot."""
    return _fork is not None


def forked() -> int:
    """`os.fork`, of which Python warns where other threads run: none of them is needed here."""
    assert _fork is not None
    _collect_ended()
    # What is not written yet would be written by both.
    _flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _fork()


def in_a_fork(function: Callable[[], T]) -> T:
    """What the function returns in a fork, pickled: so it has to be plain data.

    Raises what the function raises, and ForkEnded.
    """
    reading, writing = _pipe()
    pid = forked()
    if pid == 0:
        with leaving():
            os.close(reading)
            _write(writing, _answered(function))
    os.close(writing)
    try:
        with open(reading, "rb") as stream:
            answer = stream.read()
    except BaseException:
        end(pid)
        raise
    status = _status_of(pid)
    if not answer:
        raise ForkEnded(_words_of(status))
    has_returned, value = pickle.loads(answer)
    if not has_returned:
        raise value
    result: T = value
    return result


@contextmanager
def leaving() -> Iterator[None]:
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
