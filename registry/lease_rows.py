"""The rows of the lease table: what each operation does, in each situation that it can meet.

It is data. `lease_table.py` finds the situation and has the code of each action; the table of
`registry/README.md` is made from it.
"""

from __future__ import annotations

import enum

from registry.lease_records import Cancel, LeaseOperation, Leave, Poll, Register, Renew


class Situation(enum.Enum):
    """What an operation can meet."""

    # what a register finds
    REPEATS = "repeats an older prompt, a newer one is there"
    SESSION_FREE = "session free"
    OTHERS_WAIT = "nobody holds, others wait"
    HOLDER_RUNS = "holder runs"
    HOLDER_STOPS = "holder was told to stop"
    HOLDER_OVERDUE = "holder overdue"
    QUEUE_OPEN = "enqueues, queue has room"
    QUEUE_FULL = "enqueues, queue full"
    HOLDER_OVER = "rejects, the holder's time is over"
    SESSION_BUSY = "rejects, session busy"
    UNSETTLED = "rejects, quarantine"
    # how an operation finds the stream that it names
    HOLDS = "it holds"
    HOLDS_STOPPED = "it holds and was told to stop"
    WAITS = "it waits"
    DETACHED = "it is detached"
    UNKNOWN = "unknown"
    # what a poll finds whose turn it is
    TURN = "its turn, nobody holds"
    TURN_HOLDER_DEAD = "its turn, the holder is dead"
    TURN_HOLDER_LATE = "its turn, the holder has not ended in time"
    TURN_AT_LIMIT = "its turn, the holder is late, at the limit of detached streams"
    # what a renewal says of its gate
    GATE_CLOSED = "it holds, and has closed its gate"
    # what the store may have forgotten, in the quarantine
    REGISTER_FORGOTTEN = "quarantine, its register was forgotten"
    LEASE_FORGOTTEN = "quarantine, its lease was forgotten"
    DETACHED_FORGOTTEN = "quarantine, it was detached and forgotten"


class Action(enum.Enum):
    """What a row does: one or more of these, in their order. `PERFORM` has the code of each."""

    # with the others of its session
    STOP_HOLDER = "the holder is told to stop"
    SUPERSEDE_WAITING = "each that waits → gone"
    REFUSE_WAITING = "each that waits → gone, refused"
    DROP_HOLDER = "the holder → gone"
    DETACH_HOLDER = "the holder → DETACHED"
    MARK_OVERDUE = "the holder → OVERDUE"
    FORGET_DEAD = "a dead holder that nobody waits for → gone"
    TELL_NEXT = "who is next is told"
    # with the stream itself
    LET_WAIT = "the new stream waits"
    ASK = "then as Poll"
    KEEP_WAITING = "it goes on waiting"
    TAKE = "it holds, with a new fencing token"
    EXTEND = "its lease is extended"
    KEEP_STOPPING = "it stops, its lease is not extended"
    CLOSE_GATE = "it stops, of its own accord"
    NOTE_LOGGED = "what it has logged is not named again"
    STAY_DETACHED = "it goes on being counted"
    FREE = "it → gone, the session is free"
    LEAVE_QUEUE = "it no longer waits"
    LEAVE_DETACHED = "it is no longer counted"
    STOP = "it is told to stop"
    THROW_OUT = "it → gone, and is told"
    # after the store may have lost writes
    WAIT_AGAIN = "it waits again, under its ticket"
    HOLD_AGAIN = "it holds again, under its fencing token"
    DETACH_AGAIN = "it is counted again"
    # what else is said
    SAY_GONE = "gone"
    SAY_LOST = "lost"
    SAY_REPEATED = "refused: it would stop a newer prompt, and is sent by a library"
    SAY_OVERDUE = "refused: the holder can be neither waited for nor detached"
    SAY_FULL = "refused: as many wait in its session as may"
    SAY_BUSY = "refused: its session is held, and it waits for nobody"
    SAY_UNSETTLED = "refused: whether its session is held is not known yet"
    SAY_DONE = "done"
    SAY_NOTHING = "nothing"


Row = tuple[Action, ...]

# No row: the operation is not possible there, and raises IllegalOperation.
TABLE: dict[tuple[type[LeaseOperation], Situation], Row] = {
    (Register, Situation.SESSION_FREE): (Action.LET_WAIT, Action.ASK),
    (Register, Situation.OTHERS_WAIT): (Action.SUPERSEDE_WAITING, Action.LET_WAIT, Action.ASK),
    (Register, Situation.HOLDER_RUNS): (
        Action.STOP_HOLDER,
        Action.SUPERSEDE_WAITING,
        Action.LET_WAIT,
        Action.ASK,
    ),
    (Register, Situation.HOLDER_STOPS): (Action.SUPERSEDE_WAITING, Action.LET_WAIT, Action.ASK),
    (Register, Situation.REPEATS): (Action.SAY_REPEATED,),
    (Register, Situation.HOLDER_OVERDUE): (Action.SAY_OVERDUE,),
    (Register, Situation.QUEUE_OPEN): (Action.LET_WAIT, Action.ASK),
    (Register, Situation.QUEUE_FULL): (Action.SAY_FULL,),
    (Register, Situation.HOLDER_OVER): (Action.LET_WAIT, Action.ASK),
    (Register, Situation.SESSION_BUSY): (Action.SAY_BUSY,),
    (Register, Situation.UNSETTLED): (Action.SAY_UNSETTLED,),
    # It was asked before, and its reply was lost.
    (Register, Situation.HOLDS): (Action.ASK,),
    (Register, Situation.HOLDS_STOPPED): (Action.ASK,),
    (Register, Situation.WAITS): (Action.ASK,),
    (Poll, Situation.HOLDS): (Action.EXTEND,),
    (Poll, Situation.HOLDS_STOPPED): (Action.KEEP_STOPPING,),
    (Poll, Situation.WAITS): (Action.KEEP_WAITING,),
    (Poll, Situation.TURN): (Action.TAKE,),
    (Poll, Situation.TURN_HOLDER_DEAD): (Action.DROP_HOLDER, Action.TAKE),
    (Poll, Situation.TURN_HOLDER_LATE): (Action.DETACH_HOLDER, Action.TAKE),
    (Poll, Situation.TURN_AT_LIMIT): (
        Action.MARK_OVERDUE,
        Action.REFUSE_WAITING,
        Action.SAY_OVERDUE,
    ),
    (Poll, Situation.REGISTER_FORGOTTEN): (Action.WAIT_AGAIN, Action.ASK),
    (Poll, Situation.DETACHED): (Action.SAY_GONE,),
    (Poll, Situation.UNKNOWN): (Action.FORGET_DEAD, Action.SAY_GONE),
    (Renew, Situation.HOLDS): (Action.NOTE_LOGGED, Action.EXTEND),
    (Renew, Situation.GATE_CLOSED): (Action.NOTE_LOGGED, Action.CLOSE_GATE),
    (Renew, Situation.HOLDS_STOPPED): (Action.NOTE_LOGGED, Action.KEEP_STOPPING),
    (Renew, Situation.DETACHED): (Action.STAY_DETACHED,),
    (Renew, Situation.LEASE_FORGOTTEN): (Action.NOTE_LOGGED, Action.HOLD_AGAIN),
    (Renew, Situation.DETACHED_FORGOTTEN): (Action.DETACH_AGAIN,),
    (Renew, Situation.WAITS): (Action.SAY_LOST,),
    (Renew, Situation.UNKNOWN): (Action.SAY_LOST,),
    (Leave, Situation.HOLDS): (
        Action.NOTE_LOGGED,
        Action.FREE,
        Action.TELL_NEXT,
        Action.SAY_DONE,
    ),
    (Leave, Situation.HOLDS_STOPPED): (
        Action.NOTE_LOGGED,
        Action.FREE,
        Action.TELL_NEXT,
        Action.SAY_DONE,
    ),
    # It may have been told that the session is free: then the next one has to be.
    (Leave, Situation.WAITS): (Action.LEAVE_QUEUE, Action.TELL_NEXT, Action.SAY_DONE),
    (Leave, Situation.DETACHED): (Action.LEAVE_DETACHED, Action.SAY_DONE),
    (Leave, Situation.UNKNOWN): (Action.SAY_NOTHING,),
    (Cancel, Situation.HOLDS): (Action.STOP, Action.SAY_DONE),
    (Cancel, Situation.HOLDS_STOPPED): (Action.SAY_NOTHING,),
    (Cancel, Situation.WAITS): (Action.THROW_OUT, Action.TELL_NEXT, Action.SAY_DONE),
    (Cancel, Situation.DETACHED): (Action.SAY_NOTHING,),
    (Cancel, Situation.UNKNOWN): (Action.SAY_NOTHING,),
}
