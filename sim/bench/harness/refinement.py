"""Whether the shell is the table: it takes the protocol's steps, and carries out what they say.

`StreamRegistry` gets the effects of an operation as a sequence that notices when each is taken: the
one before has to be carried out by then, and after the last the shell keeps exactly what the table
knows. So what is proved of the table (`onestream prove`) holds of what the shell does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from registry.patience import PatientTimer
from registry.protocol import (
    Admitted,
    Effect,
    Forgotten,
    Logged,
    Queued,
    Rejected,
    State,
    StopRequested,
    StreamProtocol,
)
from registry.stream import Stream

if TYPE_CHECKING:
    from registry import StreamRegistry
    from sim.bench.harness.log_capture import LogLine

REFINES = "the shell carries out the effects of each operation, in their order, and nothing else"


class ObservedEffects(tuple[Effect, ...]):
    """Of one operation. done_with: called with each when the shell asks for the next one, and with
    None when there is none."""

    done_with: Callable[[Effect | None], None]

    def __iter__(self) -> Iterator[Effect]:
        done_with = self.done_with
        for effect in tuple.__iter__(self):
            yield effect
            done_with(effect)
        done_with(None)


# In every execution, so by the type alone, and not by matching.


def is_carried_out(shell: StreamRegistry, effect: Any, logged: Sequence[LogLine]) -> bool:
    """Of an effect that the shell has taken."""
    kind = type(effect)
    if kind is Logged:
        return bool(logged) and logged[-1].text == str(effect)
    name = effect.trace_id
    if kind is Forgotten:
        return name not in shell._streams and name not in shell._grace_timers
    if kind is Queued:
        return _is_due(shell._wait_timers.get(name), effect.wait_deadline)
    stream = shell._streams.get(name)
    if stream is None:
        return False
    if kind is Admitted:
        return stream.fencing_token == effect.fencing_token and name not in shell._admissions
    if stream.stop_error is not effect.error:
        return False
    if kind is StopRequested:
        is_due = _is_due(shell._grace_timers.get(name), effect.grace_deadline)
        return is_due and _is_stopped(stream)
    assert kind is Rejected
    return name not in shell._admissions


def _is_due(timer: PatientTimer | None, deadline: float) -> bool:
    return timer is not None and timer.when() == deadline and not timer.cancelled()


def _is_stopped(stream: Stream) -> bool:
    """Its flag is set, and its task is over, being cancelled, or will be at its next await.

    The flag is read without its method: lines of its file are where a thread may be overtaken.
    """
    task = stream.task
    is_told = task.cancelling() or task.done() or stream._task_over
    return bool(is_told or stream._cancel_handle is not None) and stream.stop_signal._is_set


def keeps_what_it_knows(shell: StreamRegistry, protocol: StreamProtocol) -> bool:
    """Whether it keeps something for those streams alone that the table has in its state."""
    streams, graces = shell._streams, shell._grace_timers
    admissions, waits = shell._admissions, shell._wait_timers
    waiting = enqueued = in_grace = 0
    for name, known in protocol._streams.items():
        if name not in streams:
            return False
        if known.state is State.WAITING:
            if name not in admissions:
                return False
            waiting += 1
            if known.wait_deadline is not None:
                if name not in waits:
                    return False
                enqueued += 1
        elif known.state is State.STOPPING and not known.overdue:
            if name not in graces:
                return False
            in_grace += 1
    kept = (len(streams), len(admissions), len(waits), len(graces))
    return kept == (len(protocol._streams), waiting, enqueued, in_grace)


def what_it_keeps(shell: StreamRegistry) -> str:
    return (
        f"it keeps {[*shell._streams]}, {[*shell._admissions]} of them not answered; the graces "
        f"of {[*shell._grace_timers]} and the waits of {[*shell._wait_timers]} run"
    )
