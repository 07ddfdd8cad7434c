"""The steps of a traced execution: callbacks of the loop, in a user's words."""

from __future__ import annotations

from dataclasses import dataclass

LOOP = "loop"
"""The actor of a callback that is no task's."""

_WORDS = {
    "_settle": "an outside event wakes the task that waits for it",
    "_call_and_settle": "an outside event's callback runs",
    "SignalHandlers._handle_signal": "a signal's handler is called",
    "_set_result_unless_cancelled": "a sleep ends",
    "Timeout._on_timeout": "a timeout fires",
    "_run.<locals>.<lambda>": "the program has ended",
}
"""Of callbacks of the simulator's and asyncio's own."""


@dataclass(frozen=True, slots=True)
class Step:
    """actor: the name of the task whose step it is, or `loop`. callback: its qualified name."""

    at: float
    actor: str
    callback: str

    @property
    def words(self) -> str:
        return f"{self.what}, at {self.at:.3f} s"

    @property
    def what(self) -> str:
        if self.actor != LOOP:
            verb = "goes on" if self.callback.endswith("task_wakeup") else "takes a step"
            return f"task «{self.actor}» {verb}"
        return _WORDS.get(self.callback, f"the callback {self.callback} runs")


def step_of(line: str) -> Step:
    """Of a line of `Outcome.steps`."""
    at, _, rest = line.partition(" ")
    actor, _, callback = rest.rpartition(" ")
    return Step(float(at), actor, callback)
