"""A fork of this process from before the first execution, to ask what a fresh one would do.

It waits and does nothing. Each question is answered in a fork of its own, so the copy stays as it
was, however many are asked.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from select import select
from time import perf_counter
from typing import Any, BinaryIO

from sim.exploration.subject import Problem
from sim.kernel import forks, watchdog
from sim.kernel.current import executions
from sim.kernel.errors import BudgetSpent
from sim.kernel.threads.earlier_locks import look_for_locks

ANSWER_S = 20.0
"""Real seconds for one answer, within the budget's rest; what takes longer is not known."""

_LENGTH = struct.Struct("!Q")


class FreshCopy:
    """To be closed. Where there is no fork, or it did not answer in time, no answer is known."""

    def __init__(self, problem: Problem) -> None:
        """problem: the first argument of every question."""
        # Within which it is asked from now on.
        self.bounds = problem.bounds
        self._pid: int | None = None
        # Within an execution a fork would be the program's.
        if forks.are_possible() and not executions:
            with suppress(OSError):
                self._begin(problem)

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(problem, *arguments)` returns in a fresh process; None if it is not known.

        It has as long as an execution here would have.

        The function is one of a module; it returns plain data, and the arguments are plain, too.
        """
        if self._pid is None:
            return None
        seconds = min(ANSWER_S, watchdog.seconds_left())
        try:
            _send(self._questions, (function, arguments, seconds, self.bounds))
            if not select([self._answers], [], [], seconds + forks.LATER_S + 1)[0]:
                raise TimeoutError
            return _received(self._answers)
        except (OSError, EOFError):
            self._end()
            return None
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        if self._pid is not None:
            self._end()

    def __enter__(self) -> FreshCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, problem: Problem) -> None:
        # Else each fork that answers would do it anew, which takes seconds where much is imported.
        look_for_locks()
        asked, answered = os.pipe(), os.pipe()

        def answer() -> None:
            os.close(asked[1])
            os.close(answered[0])
            # With the forks that answer; and Ctrl-C is for the parent alone.
            os.setpgid(0, 0)
            _answer_all(problem, os.fdopen(asked[0], "rb"), os.fdopen(answered[1], "wb"))

        pid = forks.forked(answer)
        os.close(asked[0])
        os.close(answered[1])
        self._questions, self._answers = os.fdopen(asked[1], "wb"), os.fdopen(answered[0], "rb")
        self._pid = pid

    def _end(self) -> None:
        pid, self._pid = self._pid, None
        for stream in (self._questions, self._answers):
            with suppress(OSError):
                stream.close()
        if pid is not None:
            forks.end_group(pid)


def _answer_all(problem: Problem, questions: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            function, arguments, seconds, bounds = _received(questions)
        except EOFError:
            # The parent is gone.
            return
        answer = None
        try:
            answer = forks.in_a_fork(
                partial(_answer, function, replace(problem, bounds=bounds), arguments, seconds),
                seconds + forks.LATER_S,
            )
        except (BudgetSpent, forks.ForkTooLate):
            """There was no time for it, so it is not known."""
        except Exception as exc:
            print(f"in a fresh copy of the process: {exc!r}", file=sys.stderr)
        _send(answers, answer)


def _answer(
    function: Callable[..., Any], problem: Problem, arguments: tuple[Any, ...], seconds: float
) -> Any:
    with watchdog.limited(perf_counter() + seconds):
        return function(problem, *arguments)


def _send(stream: BinaryIO, value: object) -> None:
    data = pickle.dumps(value)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _received(stream: BinaryIO) -> Any:
    """Raises EOFError where the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return pickle.loads(stream.read(_LENGTH.unpack(head)[0]))
