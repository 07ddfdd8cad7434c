"""What the simulator raises."""

from __future__ import annotations


class NotSimulated(Exception):
    """The program asked for something that the simulator does not model.

    No RuntimeError, as is `Stuck`: programs catch those, and tests expect them.
    """


class Stuck(Exception):
    """A stand-alone loop cannot go on: a deadlock, a livelock, or no end before the horizon."""


class CheckFailed(AssertionError):
    """A property was violated; the execution ends. Raised by `World.check`."""


class StepBrokenOff(BaseException):
    """A step that did not return to the loop was broken off; raised into it, wherever it was."""


class Misused(ValueError):
    """A call with what makes no sense; `args[0]` says with what, what is allowed, and where."""


class NotAProgram(TypeError):
    """What was to be explored is not a coroutine function that takes the world."""


class BudgetSpent(Exception):
    """The budget was spent while an execution ran, which was ended; says what ran."""


class Nondeterminism(Exception):
    """One schedule led to two different executions: something else decides, too."""


class ScheduleDoesNotFit(Exception):
    """A replay diverged: the program does not reach the choice points of the schedule."""


class Opaque(Exception):
    """It is not known how to read the state of something.

    what: it, or its type. instead: what the program can do, so that its states are read.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what, instead)
        self.what = what
        self.instead = instead
