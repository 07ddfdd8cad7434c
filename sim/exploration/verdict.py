"""The verdict of an exploration, and why it ended."""

from __future__ import annotations

import enum


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

    @property
    def is_final(self) -> bool:
        """Whether more time would change nothing."""
        return self in (Stop.EXECUTIONS_MAX, Stop.NONDETERMINISM, Stop.STATE_SURVIVED)
