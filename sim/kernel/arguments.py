"""What the arguments of a user's calls may be: one table, for calls, markers and the command line.

Whatever is refused says the value, what is allowed, and where the program gave it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import FrameType
from typing import Any

from sim.kernel.errors import Misused
from sim.kernel.origin import is_own_code


@dataclass(frozen=True, slots=True)
class _Rule:
    """words: what it is, after "is". holds: asked of values of any type."""

    words: str
    holds: Callable[[Any], bool]


def is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Not `nan`, which is neither more nor less than anything."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and not math.isnan(value)  # type: ignore[arg-type]


def _is_texts(value: object) -> bool:
    is_many = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return is_many and all(isinstance(each, str) for each in value)  # type: ignore[attr-defined]


_SEED = _Rule("a whole number", is_whole)
_YES_OR_NO = _Rule("True or False", lambda value: isinstance(value, bool))
_RULES = {
    "lateness_s": _Rule(
        "a finite number of seconds, 0 or more",
        lambda value: is_number(value) and 0 <= value < math.inf,
    ),
    "passes_max": _Rule("a whole number, 0 or more", lambda value: is_whole(value) and value >= 0),
    "spin_max": _Rule("a whole number, 1 or more", lambda value: is_whole(value) and value >= 1),
    "horizon_s": _Rule(
        "a finite number of seconds, more than 0",
        lambda value: is_number(value) and 0 < value < math.inf,
    ),
    "step_lines_max": _Rule(
        "a whole number, 1 or more", lambda value: is_whole(value) and value >= 1
    ),
    "entropy_seed": _SEED,
    "unretrieved_fails": _YES_OR_NO,
    "own_lines": _YES_OR_NO,
    "timers_apart": _YES_OR_NO,
    "signal_lines": _YES_OR_NO,
    "set_order": _Rule("a whole number, 0 or more", lambda value: is_whole(value) and value >= 0),
    "equal_readings": _Rule(
        "a whole number, 0 or more", lambda value: is_whole(value) and value >= 0
    ),
    "collections": _Rule("a whole number, 0 or more", lambda value: is_whole(value) and value >= 0),
    "clock_s": _Rule(
        "a number of seconds, from 0 to 16,000,000",
        lambda value: is_number(value) and 0 <= value <= 1.6e7,
    ),
    "wall_s": _Rule("seconds since 1970", lambda value: is_number(value) and 0 <= value < 1e10),
    "time_limits": _Rule(
        "a tuple of finite numbers of seconds, more than 0",
        lambda value: isinstance(value, tuple) and all(0 < each < math.inf for each in value),
    ),
    "cpus": _Rule(
        "a whole number, 1 or more, or None",
        lambda value: value is None or (is_whole(value) and value >= 1),
    ),
    "thread_lines": _YES_OR_NO,
    "seed": _SEED,
    "budget_s": _Rule(
        # 0 is what is left of a budget that is spent.
        "a number of real seconds, 0 or more, or None",
        lambda value: value is None or (is_number(value) and value >= 0),
    ),
    "max_executions": _Rule(
        "a whole number, 0 or more, or None",
        lambda value: value is None or (is_whole(value) and value >= 0),
    ),
    "labels": _Rule("a list of texts", _is_texts),
    "isolate": _YES_OR_NO,
    "traced": _YES_OR_NO,
    "unretrieved": _Rule("'warn' or 'fail'", lambda value: value in ("warn", "fail")),
    "inconclusive": _Rule("'fail' or 'pass'", lambda value: value in ("fail", "pass")),
    "watch": _Rule("a function of the findings and the scheduler", callable),
    "schedule": _Rule(
        "the text that a counterexample ends with, or 'natural'",
        lambda value: isinstance(value, str),
    ),
    "sources": _Rule(
        "a list of functions, classes, modules or packages",
        lambda value: isinstance(value, list | tuple),
    ),
    "faults_max": _Rule("a whole number, 0 or more", lambda value: is_whole(value) and value >= 0),
    "for_s": _Rule(
        "a finite number of seconds, more than 0",
        lambda value: is_number(value) and 0 < value < math.inf,
    ),
    "restart_s": _Rule(
        "a finite number of seconds, 0 or more, or None, for never",
        lambda value: value is None or (is_number(value) and 0 <= value < math.inf),
    ),
    "clock_offset_s": _Rule(
        # Further from 0 a clock could not tell two readings apart, a nanosecond each.
        "a number of seconds, not further from 0 than 1,000,000",
        lambda value: is_number(value) and abs(value) <= 1e6,
    ),
    "clock_rate": _Rule(
        "a number, more than 0 and at most 1000",
        lambda value: is_number(value) and 0 < value <= 1000,
    ),
    "threads_max": _Rule("a whole number, 1 or more", lambda value: is_whole(value) and value >= 1),
    "queue_max": _Rule("a whole number, 1 or more", lambda value: is_whole(value) and value >= 1),
    "departures_min": _Rule(
        "a whole number, 0 or more", lambda value: is_whole(value) and value >= 0
    ),
    "departures_max": _Rule(
        "a whole number, not less than departures_min, or None",
        lambda value: value is None or is_whole(value),
    ),
}


def wrong_with(arguments: Mapping[str, object]) -> str | None:
    """The first that makes no sense, in a sentence; None if all do. Others may have no rule."""
    for name, value in arguments.items():
        rule = _RULES.get(name)
        if rule is not None and not rule.holds(value):
            return f"{name}={value!r} makes no sense: {name} is {rule.words}"
    return None


def require(**arguments: object) -> None:
    """Raises Misused if one makes no sense."""
    wrong = wrong_with(arguments)
    if wrong is not None:
        raise misused(wrong)


def misused(what: str) -> Misused:
    """The error, with the line of the program that called."""
    return Misused(f"{what}{caller()}")


_SCRIPTS = Path(sys.executable).parent


def _is_own(frame: FrameType) -> bool:
    code = frame.f_code
    # A dataclass has an `__init__` that is written at run time.
    is_made = code.co_filename == "<string>" and code.co_name == "__init__"
    # As pytest's, or that of a command: it says nothing of the program.
    is_entry_script = code.co_name == "<module>" and Path(code.co_filename).parent == _SCRIPTS
    return is_own_code(code.co_filename) and not is_made and not is_entry_script


def caller() -> str:
    """The line of the program that called, in words."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_own(frame):
        frame = frame.f_back
    if frame is None:
        return ""
    name = Path(frame.f_code.co_filename).name
    return f" ({name}:{frame.f_lineno}, in {frame.f_code.co_name})"
