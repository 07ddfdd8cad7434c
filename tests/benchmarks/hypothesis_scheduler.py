"""Hypothesis as one more scheduler, and how many examples it takes to the first failure.

Its phases are the usual ones up to a failure: an example is counted when it fails, and is neither
shrunk nor explained. There is no database, so nothing is reused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import StopTest

from sim.kernel.schedule import ChoicePoint
from sim.schedulers import Once

EXAMPLES_MAX = 100
"""Hypothesis's default."""


class Drawn(Once):
    """One execution, each choice of which is an integer that Hypothesis draws.

    It shrinks towards 0, so its first example is natural order.
    """

    name = "hypothesis"
    covers = "one schedule"

    def __init__(self, data: st.DataObject) -> None:
        # `data.draw` reads the clock, which is the program's within an execution.
        self._draw = data.conjecture_data.draw_integer
        self._stopped: StopTest | None = None

    def choose(self, point: ChoicePoint) -> int:
        if self._stopped is None:
            try:
                return self._draw(0, len(point.options) - 1)
            except StopTest as exc:
                # Raised here, it would be raised into a task, which might swallow it.
                self._stopped = exc
        return 0

    def end(self) -> None:
        """Raises what ended the example, if Hypothesis would draw no more."""
        if self._stopped is not None:
            raise self._stopped


class Failed(AssertionError):
    """An example failed, as it should."""


def usual_settings(examples_max: int) -> settings:
    return settings(
        max_examples=examples_max,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )


def examples_to_failure(
    fails: Callable[[st.DataObject], bool], *, seed: int, examples_max: int = EXAMPLES_MAX
) -> float:
    """Which example is the first to fail, infinite if none is."""
    examples, failed_at = 0, math.inf

    @hypothesis.seed(seed)
    @usual_settings(examples_max)
    @given(st.data())
    def test(data: st.DataObject) -> None:
        nonlocal examples, failed_at
        examples += 1
        if fails(data):
            # Hypothesis runs what failed once more.
            failed_at = min(failed_at, examples)
            raise Failed

    with suppress(Failed):
        test()
    return failed_at
