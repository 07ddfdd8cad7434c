"""Executors: one in this process that fails in the ways of a network, one in bare processes.

And batches for others.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections import deque
from random import Random
from threading import Lock

from sim.executors.bare_process import BareProcess
from sim.executors.base import Answer, IsStopped, Task


class Unreliable:
    """An `Executor` that loses some workers, delays answers and repeats them.

    What it is given and what it answers is a copy, as with other processes. random: decides what
    happens, the same for the same seed. comes_late: how often the answer of a worker that seemed
    lost comes after all.
    """

    workers = 3

    def __init__(
        self,
        random: Random,
        *,
        loses: float = 0.2,
        comes_late: float = 0.5,
        repeats: float = 0.3,
    ) -> None:
        self._random = random
        self._loses, self._comes_late, self._repeats = loses, comes_late, repeats
        self._tasks: deque[tuple[int, bytes]] = deque()
        self._ready: list[bytes] = []
        self._is_stopped = False
        self.losses = 0
        self.repetitions = 0
        self.is_closed = False

    def submit(self, number: int, task: Task) -> None:
        self._tasks.append((number, pickle.dumps(task)))

    def answers(self, timeout_s: float) -> list[Answer]:
        """Sometimes none; the others in any order."""
        if self._tasks:
            self._ready += self._worked(*self._tasks.popleft())
        self._random.shuffle(self._ready)
        count = self._random.randint(0, len(self._ready))
        given, self._ready = self._ready[:count], self._ready[count:]
        return [pickle.loads(answer) for answer in given]

    def cancel(self) -> None:
        self._is_stopped = True

    def close(self) -> None:
        self.is_closed = True

    def _worked(self, number: int, pickled: bytes) -> list[bytes]:
        task: Task = pickle.loads(pickled)
        answers = []
        if self._random.random() < self._loses:
            self.losses += 1
            answers.append(Answer(number, loss="its node is gone"))
            if self._random.random() >= self._comes_late:
                return [pickle.dumps(each) for each in answers]
            # It was only cut off: what it did comes after its loss was told.
        answers.append(Answer(number, task(lambda: self._is_stopped)))
        if self._random.random() < self._repeats:
            self.repetitions += 1
            answers.append(answers[-1])
        return [pickle.dumps(each) for each in answers]


class Bare:
    """An `Executor` of one `BareProcess`: a worker of a cluster without the cluster."""

    workers = 1

    def __init__(self, folder: str = "", hash_seed: str = "1") -> None:
        self._process = BareProcess(folder, hash_seed)
        self._tasks: deque[tuple[int, Task]] = deque()
        self._is_stopped = False

    def submit(self, number: int, task: Task) -> None:
        self._tasks.append((number, task))

    def answers(self, timeout_s: float) -> list[Answer]:
        number, task = self._tasks.popleft()
        return [self._process.do(number, task, lambda: self._is_stopped)]

    def cancel(self) -> None:
        self._is_stopped = True

    def close(self) -> None:
        self._process.close()


def own_process(is_stopped: IsStopped) -> int:
    return os.getpid()


def what_its_process_imported(is_stopped: IsStopped) -> set[str]:
    return set(sys.modules)


def square(number: int, is_stopped: IsStopped) -> int:
    return number * number


def hash_of_a_word(is_stopped: IsStopped) -> int:
    return hash("word")


def fails(is_stopped: IsStopped) -> None:
    raise LookupError("no such seed")


class OfTwoWords(Exception):
    """Pickled with one argument, it cannot be made again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fails_in_two_words(is_stopped: IsStopped) -> None:
    raise OfTwoWords("no", "such seed")


def finds_a_lock(is_stopped: IsStopped) -> dict[str, list[object]]:
    return {"seen": [1, Lock()]}


def ends_its_process(is_stopped: IsStopped) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ends_its_process_once(file: str, is_stopped: IsStopped) -> str:
    """The second time it finds what the first has left."""
    if not os.path.exists(file):
        with open(file, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def waits_to_be_stopped(is_stopped: IsStopped) -> str:
    while not is_stopped():
        pass
    return "stopped"
