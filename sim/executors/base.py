"""The interface between a search and the workers that do its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

IsStopped = Callable[[], bool]
Task = Callable[[IsStopped], Any]
"""A batch of work, to be pickled. It ends soon once `IsStopped` says so, with what it has found."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task returned, or the error it raised.

    loss: how its worker was lost, in words; then there is neither, and it has to be done again.
    """

    number: int
    value: Any = None
    error: Exception | None = None
    loss: str = ""


class Executor(Protocol):
    """Workers that do tasks, each a process of its own.

    `Batches` is how it is used: that sees to it that each task is answered once.
    """

    @property
    def workers(self) -> int:
        """How many tasks are done at the same time; fewer once workers were lost for good."""
        ...

    def submit(self, number: int, task: Task) -> None:
        """number: of the answer. It may be submitted again, after a loss."""
        ...

    def answers(self, timeout_s: float) -> list[Answer]:
        """Those that have come since the last call, in any order; waits for the first.

        Raises WorkersLost if nobody is left who could answer.
        """
        ...

    def cancel(self) -> None:
        """From now on every task is stopped, also one that is submitted later."""
        ...

    def close(self) -> None:
        """Ends the workers; what they have not answered is dropped."""
        ...


MakeExecutor = Callable[[], Executor]


class WorkersLost(ConnectionError):
    """Work could not be done, since each worker that had it was lost."""
