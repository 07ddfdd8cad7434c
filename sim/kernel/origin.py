"""Whose an exception is: the program's own, or the simulator's, of which no verdict may speak.

A fault of a stand-in – an attribute that it lacks, say – looks to the program like an answer of
CPython's, and would refute it. So before an exception counts as a violation its traceback is
walked from where it arose: the first frame that is not of the standard library says whose it is.
(Installed packages except SimPy are the program's.)
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import simpy

from sim.kernel.errors import CheckFailed, Misused, NotSimulated, StepBrokenOff

C = TypeVar("C", bound=Callable[..., Any])
E = TypeVar("E", bound=BaseException)

_SIM = str(Path(__file__).parents[1]) + "/"
_KERNEL = str(Path(__file__).parent) + "/"
# Folders of this package that hold programs under check, as a user's would be.
_PROGRAMS = tuple(_SIM + folder for folder in ("bugs/", "examples/", "bench/subjects/"))
# These act for their caller; what is compiled into the interpreter has no file.
_SIMPY = str(Path(simpy.__file__).parent) + "/"
_STDLIB = (*{sysconfig.get_paths()[name] + "/" for name in ("stdlib", "platstdlib")}, "<frozen ")
# Of code that is no file's: a dataclass's, and what `exec` was given.
_GENERATED = "<string>"
_MODELLED = "_sim_is_modelled"
# Where a Python keeps installed packages, also below its standard library.
_INSTALLED = ("/site-packages/", "/dist-packages/")
# The code of functions that call what they were given: what that raises is not their fault.
_forwarding: set[CodeType] = set()


class Origin(Enum):
    PROGRAM = "the program's"
    SIMULATOR = "the simulator's own"


def modelled(exception: E) -> E:
    """For a stand-in that raises what the real object would raise: it is the program's."""
    setattr(exception, _MODELLED, True)
    return exception


def is_modelled(exception: BaseException) -> bool:
    """Whether a stand-in raised it, as the real object would."""
    return hasattr(exception, _MODELLED)


def forwards(function: C) -> C:
    """A decorator: what is raised below the function is an answer to its caller."""
    inner: Any = function
    _forwarding.add(inner.__code__)
    return function


def is_of_simulator(file: str) -> bool:
    return file.startswith(_SIM) and not file.startswith(_PROGRAMS)


def is_of_kernel(file: str) -> bool:
    return file.startswith(_KERNEL)


def is_own_code(file: str) -> bool:
    """Whether a user would say so: it is in no installed package, and no part of Python."""
    is_installed = any(part in file for part in _INSTALLED)
    return not (is_of_simulator(file) or is_installed or file.startswith((*_STDLIB, _SIMPY)))


def fault_of_simulator(exception: BaseException) -> str | None:
    """What arose in the simulator, and where, in words; None if the exception is the program's."""
    fault = _fault_in(exception)
    if fault is None:
        return None
    if isinstance(fault, NotSimulated | Misused):
        return str(fault)
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{fault!r} arises in the simulator, at {_place(fault)}, on Python {version}: nothing can "
        f"be said of the program; report it with the program, or see what is simulated in "
        f"sim/README.md"
    )


def _fault_in(exception: BaseException) -> BaseException | None:
    """Which of the exceptions that led to this one arose in the simulator, if any did."""
    return next((each for each in _all_of(exception, set()) if _is_fault(each)), None)


def _all_of(exception: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(exception) in seen:
        return
    seen.add(id(exception))
    yield exception
    if is_modelled(exception):
        # Exceptions that led the stand-in to raise this one do not count.
        return
    behind = [exception.__cause__, exception.__context__]
    if isinstance(exception, BaseExceptionGroup):
        behind += exception.exceptions
    for each in behind:
        if each is not None:
            yield from _all_of(each, seen)


def _is_fault(exception: BaseException) -> bool:
    if isinstance(exception, NotSimulated | Misused):
        return True
    is_verdict = isinstance(exception, CheckFailed | StepBrokenOff)
    if is_verdict or is_modelled(exception) or not isinstance(exception, Exception):
        return False
    owners = [owner for frame in _frames(exception) if (owner := _owner(frame)) is not None]
    if not owners:
        return False
    if isinstance(exception, RecursionError):
        # It arises in whichever frame comes last, so whose are most of the frames?
        return Counter(owners).most_common(1)[0][0] is Origin.SIMULATOR
    return owners[-1] is Origin.SIMULATOR


def _frames(exception: BaseException) -> Iterator[FrameType]:
    for frame, _ in traceback.walk_tb(exception.__traceback__):
        yield frame


def _owner(frame: FrameType) -> Origin | None:
    file = frame.f_code.co_filename
    if file != _GENERATED:
        return _owner_of(frame.f_code)
    if str(frame.f_globals.get("__name__")).startswith("namedtuple_"):
        return None
    # Made for a class, as `__init__` of a dataclass, it is its module's.
    return _owner_of_file(frame.f_globals.get("__file__") or file)


def _owner_of(code: CodeType) -> Origin | None:
    """None for what acts for its caller."""
    return None if code in _forwarding else _owner_of_file(code.co_filename)


def _owner_of_file(file: str) -> Origin | None:
    if file.startswith(_SIMPY):
        return None
    if is_of_simulator(file):
        return Origin.SIMULATOR
    is_stdlib = file.startswith(_STDLIB) and not is_installed(file)
    return None if is_stdlib else Origin.PROGRAM


def is_simulators(frame: FrameType) -> bool:
    """Whether the simulator acts of its own accord in it, and not for its caller."""
    return _owner(frame) is Origin.SIMULATOR


def is_programs(frame: FrameType) -> bool:
    """Whether it is neither the standard library's nor the simulator's."""
    return _owner(frame) is Origin.PROGRAM


def is_programs_code(code: CodeType) -> bool:
    return _owner_of(code) is Origin.PROGRAM


def is_installed(file: str) -> bool:
    """Whether it belongs to an installed package, and not to the program itself."""
    return any(part in file for part in _INSTALLED)


def _place(fault: BaseException) -> str:
    at = [
        f"sim/{frame.f_code.co_filename.removeprefix(_SIM)}:{line} ({frame.f_code.co_name})"
        for frame, line in traceback.walk_tb(fault.__traceback__)
        if _owner(frame) is Origin.SIMULATOR
    ]
    return at[-1]
