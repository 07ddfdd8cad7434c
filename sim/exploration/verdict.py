"""The verdict of an exploration, and why it ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """PASSED: random executions found nothing, which proves nothing."""

    PROVED = "proved"
    PASSED = "passed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"

    @property
    def exit_code(self) -> int:
        """Of a command with this verdict."""
        return EXIT_CODES[self]


# Bad usage is an error as well: argparse's 2 for it would be INCONCLUSIVE's.
EXIT_CODES = {
    Verdict.PROVED: 0,
    Verdict.PASSED: 0,
    Verdict.REFUTED: 1,
    Verdict.INCONCLUSIVE: 2,
    Verdict.ERROR: 3,
}


class Stop(enum.StrEnum):
    """Why a search ended before its scheduler was exhausted."""

    INTERRUPTED = "it was interrupted"
    OUT_OF_BUDGET = "the budget is spent"
    EXECUTIONS_MAX = "the limit of executions was reached"
    NONDETERMINISM = "nondeterminism found"
    STATE_SURVIVED = "state survived an execution"
    THREAD_SPINS = "a thread spins"

    @property
    def is_final(self) -> bool:
        """Whether more time would change nothing."""
        of_time = (Stop.INTERRUPTED, Stop.OUT_OF_BUDGET)
        return self not in of_time


UNRETRIEVED_MAX = 3


@dataclass(frozen=True, slots=True)
class Unretrieved:
    """What asyncio would log of an execution that ends well.

    seen: in words, one each. schedule: of the execution in which it was seen.
    """

    seen: tuple[str, ...]
    schedule: str

    @property
    def text(self) -> str:
        lines = [f"warning: {each}" for each in self.seen[:UNRETRIEVED_MAX]]
        if len(self.seen) > UNRETRIEVED_MAX:
            lines.append(f"… and {len(self.seen) - UNRETRIEVED_MAX} more")
        return "\n".join([*lines, f"  under {self.schedule}; unretrieved='fail' lets it refute"])
