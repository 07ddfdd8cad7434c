"""What the simulator raises."""

from __future__ import annotations


class NotSimulated(RuntimeError):
    """The program asked for something that the simulator does not model."""


class Stuck(RuntimeError):
    """A loop that stands alone cannot go on: a deadlock, a livelock, or no end in sight."""


class CheckFailed(AssertionError):
    """A property was violated; the execution ends. Raised by `World.check`."""


class StepBrokenOff(BaseException):
    """A step that did not give the loop back was broken off; raised into it, wherever it was."""


class Nondeterminism(Exception):
    """One schedule led to two executions: something that the schedule does not decide."""


class ScheduleDoesNotFit(Exception):
    """A schedule was replayed on a program that does not come by its choice points."""


class Opaque(Exception):
    """Of an object's type it is not known where its state lies; `args[0]` names it."""
