"""The table: what each operation does to a stream, in each situation that it can meet.

It is data. `registry/protocol.py` finds the situation and has the code of each action; the table
and the diagram of `registry/README.md` are made from it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from registry.errors import (
    QueueFull,
    QueueTimeout,
    RegistryClosed,
    SessionBusy,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
    TraceIdKnown,
)
from registry.operations import (
    Admitted,
    Cancel,
    Close,
    Effect,
    Ended,
    Forgotten,
    GraceExpired,
    Operation,
    Queued,
    Register,
    Rejected,
    StopRequested,
    WaitExpired,
    Withdraw,
)
from registry.wording import (
    FINISHED_CLEANLY,
    STREAM_CANCELLED,
    STREAM_END,
    STREAM_START,
    TIMEOUT_ON_CANCEL,
)


class Situation(enum.Enum):
    """What an operation can meet. A stream of state STOPPING is either stopping or overdue."""

    # what a register finds, whatever its strategy
    SESSION_FREE = "session free"
    HOLDER_OVERDUE = "holder overdue"
    TRACE_ID_KNOWN = "trace id known"
    REGISTRY_CLOSED = "registry closed"
    # what one that interrupts finds
    HOLDER_ACTIVE = "holder active"
    HOLDER_ACTIVE_CONTENDED = "holder active, others wait"
    HOLDER_STOPPING = "holder stopping, nobody waits"
    HOLDER_STOPPING_CONTENDED = "holder stopping, another waits"
    # what one that is to be enqueued, or rejected, finds: in both the holder is active or stopping
    QUEUE_OPEN = "enqueues, queue has room"
    QUEUE_FULL = "enqueues, queue full"
    SESSION_BUSY = "rejects, session busy"
    # in which state an operation finds the stream that it names
    WAITING = "waiting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPING_AT_LIMIT = "stopping, at the limit of detached streams"
    OVERDUE = "overdue"
    DETACHED = "detached"
    UNKNOWN = "unknown"
    # what a close finds
    REGISTRY_OPEN = "registry open"


class Who(enum.Enum):
    """Whose state an action changes."""

    NEW = "the new stream"
    NAMED = "the stream"
    HOLDER = "the holder"
    NEXT = "the next that waits"
    EACH_WAITING = "each that waits"
    EACH_ACTIVE = "each that is active"


@dataclass(frozen=True, slots=True)
class Move:
    """Who gets into which state; UNKNOWN is that of a stream that has ended or was not let in."""

    who: Who
    to: Situation


# Without equality, so that the enum has no aliases: two actions with equal fields are two.
@dataclass(frozen=True, eq=False, slots=True)
class Does:
    """moves: none, where it refuses.

    effects: what each move has the shell do, in this order, log lines by their names. error: the
    one that the stream ends with. refuses: why `apply` raises that error and changes nothing.
    """

    moves: tuple[Move, ...] = ()
    effects: tuple[type[Effect] | str, ...] = ()
    error: type[StreamError] | None = None
    refuses: str | None = None


_STARTS = (STREAM_START, Admitted)
_STOPS = (STREAM_CANCELLED, StopRequested)
_LEAVES = (STREAM_CANCELLED, Rejected, Forgotten)


def _does(
    who: Who,
    to: Situation,
    effects: tuple[type[Effect] | str, ...] = (),
    error: type[StreamError] | None = None,
) -> Does:
    return Does((Move(who, to),), effects, error)


def _refuses(error: type[StreamError], why: str) -> Does:
    return Does(error=error, refuses=why)


class Action(enum.Enum):
    """What a row does: one or more of these, in their order. `PERFORM` has the code of each."""

    # with the stream that registers
    ADMIT_NEW = _does(Who.NEW, Situation.ACTIVE, _STARTS)
    LET_WAIT = _does(Who.NEW, Situation.WAITING)
    ENQUEUE = _does(Who.NEW, Situation.WAITING, (Queued,))
    REFUSE_OVERDUE = _refuses(StreamRefused, "the holder can be neither waited for nor detached")
    REFUSE_CLOSED = _refuses(RegistryClosed, "no stream is let in any more")
    REFUSE_FULL = _refuses(QueueFull, "as many wait in its session as may")
    REFUSE_BUSY = _refuses(SessionBusy, "its session is held, and it waits for nobody")
    REFUSE_KNOWN = _refuses(TraceIdKnown, "another stream has its trace id")
    # with the others of its session
    SUPERSEDE_HOLDER = _does(Who.HOLDER, Situation.STOPPING, _STOPS, StreamSuperseded)
    SUPERSEDE_WAITING = _does(Who.EACH_WAITING, Situation.UNKNOWN, _LEAVES, StreamSuperseded)
    REFUSE_WAITING = _does(Who.EACH_WAITING, Situation.UNKNOWN, _LEAVES, StreamRefused)
    ADMIT_NEXT = _does(Who.NEXT, Situation.ACTIVE, _STARTS)
    # with the stream that is named
    STOP = _does(Who.NAMED, Situation.STOPPING, _STOPS, StreamCancelled)
    REJECT = _does(Who.NAMED, Situation.UNKNOWN, _LEAVES, StreamCancelled)
    GIVE_UP_WAIT = _does(Who.NAMED, Situation.UNKNOWN, _LEAVES, QueueTimeout)
    DETACH = _does(Who.NAMED, Situation.DETACHED, (TIMEOUT_ON_CANCEL,))
    MARK_OVERDUE = _does(Who.NAMED, Situation.OVERDUE, (TIMEOUT_ON_CANCEL,))
    # The first of its lines only where another takes over.
    END_HOLDER = _does(Who.NAMED, Situation.UNKNOWN, (FINISHED_CLEANLY, STREAM_END, Forgotten))
    END_DETACHED = _does(Who.NAMED, Situation.UNKNOWN, (STREAM_END, Forgotten))
    # with all of them, in the order of their registers
    CLOSE = Does(
        (Move(Who.EACH_WAITING, Situation.UNKNOWN), Move(Who.EACH_ACTIVE, Situation.STOPPING)),
        (STREAM_CANCELLED, Rejected, Forgotten, StopRequested),
        StreamRefused,
    )


Row = tuple[Action, ...]

# No row: the operation is not possible there. An empty row: it is, and there is nothing to do.
TABLE: dict[tuple[type[Operation], Situation], Row] = {
    (Register, Situation.SESSION_FREE): (Action.ADMIT_NEW,),
    (Register, Situation.HOLDER_ACTIVE): (Action.SUPERSEDE_HOLDER, Action.LET_WAIT),
    # One that interrupts overtakes all that wait, also those enqueued: else they would be answered
    # before what the user has said since.
    (Register, Situation.HOLDER_ACTIVE_CONTENDED): (
        Action.SUPERSEDE_HOLDER,
        Action.SUPERSEDE_WAITING,
        Action.LET_WAIT,
    ),
    (Register, Situation.HOLDER_STOPPING): (Action.LET_WAIT,),
    (Register, Situation.HOLDER_STOPPING_CONTENDED): (Action.SUPERSEDE_WAITING, Action.LET_WAIT),
    # Behind all that wait, also behind one that interrupts; a stopping holder is waited for, too.
    (Register, Situation.QUEUE_OPEN): (Action.ENQUEUE,),
    (Register, Situation.QUEUE_FULL): (Action.REFUSE_FULL,),
    (Register, Situation.SESSION_BUSY): (Action.REFUSE_BUSY,),
    (Register, Situation.HOLDER_OVERDUE): (Action.REFUSE_OVERDUE,),
    (Register, Situation.REGISTRY_CLOSED): (Action.REFUSE_CLOSED,),
    (Register, Situation.TRACE_ID_KNOWN): (Action.REFUSE_KNOWN,),
    (Cancel, Situation.ACTIVE): (Action.STOP,),
    (Cancel, Situation.WAITING): (Action.REJECT,),
    (Cancel, Situation.STOPPING): (),
    (Cancel, Situation.OVERDUE): (),
    (Cancel, Situation.DETACHED): (),
    (Cancel, Situation.UNKNOWN): (),
    (Withdraw, Situation.WAITING): (Action.REJECT,),
    (Withdraw, Situation.ACTIVE): (Action.STOP,),
    (Withdraw, Situation.STOPPING): (),
    (Ended, Situation.ACTIVE): (Action.END_HOLDER, Action.ADMIT_NEXT),
    (Ended, Situation.STOPPING): (Action.END_HOLDER, Action.ADMIT_NEXT),
    (Ended, Situation.OVERDUE): (Action.END_HOLDER,),
    (Ended, Situation.DETACHED): (Action.END_DETACHED,),
    (GraceExpired, Situation.STOPPING): (Action.DETACH, Action.ADMIT_NEXT),
    (GraceExpired, Situation.STOPPING_AT_LIMIT): (Action.MARK_OVERDUE, Action.REFUSE_WAITING),
    (WaitExpired, Situation.WAITING): (Action.GIVE_UP_WAIT,),
    (Close, Situation.REGISTRY_OPEN): (Action.CLOSE,),
    (Close, Situation.REGISTRY_CLOSED): (),
}
