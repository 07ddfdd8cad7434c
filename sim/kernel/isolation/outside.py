"""What reaches beyond the process within an execution is refused, with its place in the program.

CPython's audit events tell of most of it: see `audit_events.py`. A hook cannot be removed, so there
is one for the life of the process, which asks only where an execution runs in this thread. What
waits in real time, or begins a process, without an event, is listed here and replaced during an
exploration.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, NoReturn

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.isolation import file_times
from sim.kernel.isolation.audit_events import EVENTS, Refused
from sim.kernel.isolation.process_locks import waiting_among_threads
from sim.kernel.origin import forwards, is_simulators

_DEBUGGERS = ("bdb", "pdb")

Waits = Callable[..., bool]

hearers: dict[str, Callable[..., None]] = {}
"""What other rooms hear of an event that is no refusal, before it happens: by its name."""


def _hears_of(names: Callable[[str], Refused | None]) -> Callable[[str, tuple[Any, ...]], None]:
    # Such a hook is never taken away: as Python ends it is called when globals are None already.
    is_over, heard, of_files = sys.is_finalizing, hearers, file_times.EVENTS

    def hook(event: str, args: tuple[Any, ...]) -> None:
        instead = names(event)
        if instead is not None:
            if not is_over():
                _refuse_where_asked(event, args, instead)
            return
        if event in heard and not is_over() and (execution := execution_of_this_thread()):
            heard[event](execution, *args)
        if event in of_files and not is_over():
            file_times.heard(event, args)

    return hook


def _refuse_where_asked(event: str, args: tuple[Any, ...], instead: Refused) -> None:
    execution = _who_refuses(instead)
    if execution is None or not _REACHES.get(event, _always)(*args):
        return
    # Two frames above stands who raised the event.
    if not is_simulators(asks := sys._getframe(2)):
        _refuse(execution, event, instead, asks)


def _refuse(execution: Execution, what: str, instead: Refused, asks: FrameType) -> NoReturn:
    module = _being_imported(asks)
    if module is None:
        execution.loop.refuse(what, instead.value)
    execution.loop.refuse(f"{what}, by the import of {module},", _IMPORT_BEFORE.format(module))


_IMPORT_BEFORE = (
    "a module does this once in a process; import {0} before the exploration, at the top of the "
    "program's file"
)


def _being_imported(asks: FrameType) -> str | None:
    """The package whose import, begun by an execution, has led to this frame; the outermost."""
    found = None
    frame: FrameType | None = asks
    while frame is not None and not is_simulators(frame):
        spec = frame.f_globals.get("__spec__")
        if frame.f_code.co_name == "<module>" and getattr(spec, "_initializing", False):
            found = frame.f_globals["__name__"]
        frame = frame.f_back
    return None if found is None else found.partition(".")[0]


# What a loop that stands alone cannot do as it is done on asyncio's own.
_WAITS_OUTSIDE = (Refused.REAL_TIME, Refused.PERSON)


def _who_refuses(instead: Refused) -> Execution | None:
    execution = execution_of_this_thread()
    if execution is not None and execution.is_alone and instead not in _WAITS_OUTSIDE:
        return None
    return execution


def _always(*args: object, **kwargs: object) -> bool:
    return True


# ---- where the arguments decide ----------------------------------------------------------------


def _no_debugger_asks(*args: object) -> bool:
    """Of `input`: a person who debugs the program may answer."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") in _DEBUGGERS:
            return False
        frame = frame.f_back
    return True


def _is_another_process(pid: int, sig: int) -> bool:
    return pid != os.getpid()


_REACHES: dict[str, Waits] = {
    "builtins.input": _no_debugger_asks,
    "os.kill": _is_another_process,
}

if sys.platform != "win32":
    import fcntl

    def _lock_waits(fd: int, operation: int, *where: int) -> bool:
        return not operation & (fcntl.LOCK_NB | fcntl.LOCK_UN)

    _REACHES |= {
        "fcntl.flock": _lock_waits,
        "fcntl.lockf": _lock_waits,
        "os.lockf": lambda fd, command, length: command == os.F_LOCK,
    }
else:
    import msvcrt

    _REACHES["msvcrt.locking"] = lambda fd, mode, size: mode in (msvcrt.LK_LOCK, msvcrt.LK_RLCK)


# ---- what raises no event ------------------------------------------------------------------------


def _select_waits(read: Any, write: Any, other: Any, timeout: float | None = None) -> bool:
    if timeout is not None and timeout <= 0:
        return False
    return not any(_real_select(read, write, other, 0))


def _read_waits(fd: int, size: int, /) -> bool:
    """A file is read at once; a pipe, a socket or a terminal may have nothing yet."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode) or not os.get_blocking(fd):
            return False
        return not _real_select([fd], [], [], 0)[0]
    except (OSError, ValueError):
        # The call itself will say it.
        return False


def _children_are_awaited(*args: Any) -> bool:
    return not (args and args[-1] & os.WNOHANG)


def _timer_is_set(*args: Any) -> bool:
    """Zero stops one."""
    return bool(args[-1] if len(args) == 1 else args[1])


_real_select = select.select

# By module: which functions, when they are refused, and what to use instead. Those that this system
# or this version lacks are passed over.
_UNHEARD: list[tuple[str, str, Waits, Refused]] = [
    ("select", "select", _select_waits, Refused.REAL_TIME),
    ("select", "epoll kqueue devpoll", _always, Refused.REAL_TIME),
    ("os", "read", _read_waits, Refused.REAL_TIME),
    ("os", "_exit abort", _always, Refused.OWN_END),
    ("os", "wait", _always, Refused.PROCESS),
    ("os", "waitpid wait3 wait4 waitid", _children_are_awaited, Refused.PROCESS),
    ("signal", "pause sigwait sigwaitinfo sigtimedwait", _always, Refused.REAL_TIME),
    ("signal", "alarm setitimer", _timer_is_set, Refused.REAL_TIME),
    # An event since 3.14; multiprocessing calls it, too.
    ("_posixsubprocess", "fork_exec", _always, Refused.PROCESS),
    ("_multiprocessing", "SemLock", _always, Refused.PROCESSES_LOCK),
    # An event since 3.12.
    ("_thread", "start_new_thread start_new", _always, Refused.THREAD),
    ("_thread", "start_joinable_thread", _always, Refused.THREAD),
    # Its event is raised before 3.13 only; and 3.12 crashes where a hook refuses it.
    ("_interpreters", "create", _always, Refused.INTERPRETER),
    ("_xxsubinterpreters", "create", _always, Refused.INTERPRETER),
]


def _refusing(real: Any, name: str, waits: Waits, instead: Refused) -> Any:
    @forwards
    def ask(*args: Any, **kwargs: Any) -> Any:
        execution = _who_refuses(instead)
        asks = sys._getframe(1)
        is_asked = execution is not None and not is_simulators(asks)
        if execution is not None and is_asked and waits(*args, **kwargs):
            _refuse(execution, name, instead, asks)
        return real(*args, **kwargs)

    # Also of a class, whose other names are asked for.
    functools.update_wrapper(ask, real, updated=())
    for each in dir(real) if isinstance(real, type) else ():
        if not each.startswith("__"):
            setattr(ask, each, getattr(real, each))
    return ask


def _module(name: str) -> ModuleType | None:
    with contextlib.suppress(ImportError):
        return import_module(name)
    return None


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of functions within an exploration."""
    return _REPLACEMENTS


def _made() -> list[tuple[Any, str, Any]]:
    found = []
    for module_name, names, waits, instead in _UNHEARD:
        module = _module(module_name)
        for name in names.split():
            if module is not None and hasattr(module, name):
                real, told = getattr(module, name), f"{module_name}.{name}"
                if instead is Refused.PROCESSES_LOCK:
                    real = waiting_among_threads(real)
                found.append((module, name, _refusing(real, told, waits, instead)))
    return found


_REPLACEMENTS = [*_made(), *file_times.replacements()]


def beneath(module: ModuleType, name: str) -> Any:
    """What a stand-in of another room calls elsewhere: what refuses, or the real one."""
    found = (each for of, called, each in _REPLACEMENTS if (of, called) == (module, name))
    return next(found, getattr(module, name))


# ---- sockets that are open already ---------------------------------------------------------------

_READS = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "_accept")


# Bound here: within executions another class stands there.
_RealSocket = socket.socket


def _has_nothing_yet(sock: socket.socket) -> bool:
    if sock.gettimeout() == 0 or sock.fileno() < 0:
        return False
    return not _real_select([sock], [], [], 0)[0]


def _reading(name: str) -> Callable[..., Any]:
    real = getattr(_RealSocket, name)

    @functools.wraps(real)
    @forwards
    def read(self: Any, *args: Any) -> Any:
        execution = _who_refuses(Refused.REAL_TIME)
        if execution is not None and _has_nothing_yet(self):
            told = f"socket.{name.removeprefix('_')}"
            execution.loop.refuse(told, Refused.REAL_TIME.value)
        return real(self, *args)

    return read


_SOCKETS_METHODS = {name: _reading(name) for name in _READS if hasattr(_RealSocket, name)}


@contextmanager
def the_outside_refused() -> Iterator[None]:
    """Within the block, what an execution asks of the world outside is refused."""
    _listen()
    with ExitStack() as undo:
        for name, method in _SOCKETS_METHODS.items():
            # They are inherited from the class in C, and so are removed afterwards.
            setattr(_RealSocket, name, method)
            undo.callback(delattr, _RealSocket, name)
        yield


@functools.cache
def _listen() -> None:
    """Once in a process, as nothing takes an audit hook away."""
    refused = {event: fate for event, fate in EVENTS.items() if isinstance(fate, Refused)}
    sys.addaudithook(_hears_of(refused.get))
