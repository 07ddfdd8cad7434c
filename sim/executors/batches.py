"""Batches of work at an executor: each is answered once, whatever happens to the workers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.executors.base import Executor, Task, WorkersLost

LOSSES_MAX = 3
"""How many workers one batch may lose: it may be what ends them."""
POLL_S = 0.1
# How many batches each worker has before it, so that none is idle.
_AHEAD = 3


@dataclass(slots=True)
class _Batch:
    task: Task
    losses: int = 0


class Batches:
    """What was submitted and is not answered yet.

    A task does the same each time, so it is done again where its worker was lost; and if that one
    was only late, the first answer counts.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._numbers = itertools.count()
        self._open: dict[int, _Batch] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def workers(self) -> int:
        return self._executor.workers

    def submit(self, task: Task) -> int:
        """Its number, as `answers` has it."""
        number = next(self._numbers)
        self._open[number] = _Batch(task)
        self._executor.submit(number, task)
        return number

    def answers(self, timeout_s: float = POLL_S) -> list[tuple[int, Any]]:
        """Numbers, and what their tasks returned, in any order. Raises what a task has raised."""
        values = []
        for answer in self._executor.answers(timeout_s):
            if answer.number not in self._open:
                continue
            if answer.loss:
                self._do_again(answer.number, answer.loss)
                continue
            del self._open[answer.number]
            if answer.error is not None:
                raise answer.error
            values.append((answer.number, answer.value))
        return values

    def _do_again(self, number: int, loss: str) -> None:
        batch = self._open[number]
        batch.losses += 1
        if batch.losses >= LOSSES_MAX:
            raise WorkersLost(
                f"{batch.losses} workers were lost that had the same batch, the last one so: "
                f"{loss}. Either something ends them (the system, for want of memory?), or what "
                f"they run does: without --jobs and --cluster it shows where"
            )
        self._executor.submit(number, batch.task)


def in_order(executor: Executor, tasks: Iterable[Task]) -> Iterator[Any]:
    """What the tasks return, in their order."""
    to_come = iter(tasks)
    batches = Batches(executor)
    values: dict[int, Any] = {}
    ahead: deque[int] = deque()
    while True:
        free = _AHEAD * batches.workers - len(ahead)
        ahead.extend(batches.submit(task) for task in itertools.islice(to_come, max(0, free)))
        if not ahead:
            return
        while ahead[0] not in values:
            values.update(batches.answers())
        yield values.pop(ahead.popleft())
