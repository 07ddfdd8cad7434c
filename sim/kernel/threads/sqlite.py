"""SQLite in simulated threads: it waits for another connection's lock in virtual time.

The library is written in C. It sleeps in real time until it has a lock, so that no other worker
could give it up, and "database is locked" would be the answer of the simulator; and it knows one
thread of the system, where stock Python refuses a connection that another thread has made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.origin import forwards, modelled
from sim.kernel.threads.identity import get_ident

try:
    import sqlite3
except ImportError:  # Python may be built without it.
    sqlite3 = None  # type: ignore[assignment]

# Those of its sqliteDefaultBusyCallback; the last one is repeated.
_DELAYS_S = (1e-3, 2e-3, 5e-3, 10e-3, 15e-3, 20e-3, 25e-3, 25e-3, 25e-3, 50e-3, 50e-3, 100e-3)
_TIMEOUT_S, _POSITIONS = 5.0, ("database", "timeout", "", "", "check_same_thread", "factory")
_CURSORS = ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall")
_CONNECTIONS = ("commit", "rollback", "__exit__", "close")


@forwards
def _waiting(
    connection: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Tries again as SQLite itself does, but sleeps in virtual time."""
    waited_s, tries = 0.0, 0
    while True:
        try:
            return call(*args, **kwargs)
        except sqlite3.OperationalError as exc:
            execution = execution_of_this_thread()
            is_busy = getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            if execution is None or not is_busy or waited_s >= connection._sim_timeout_s:
                raise
        delay_s = _DELAYS_S[min(tries, len(_DELAYS_S) - 1)]
        tries += 1
        delay_s = min(delay_s, connection._sim_timeout_s - waited_s)
        waited_s += delay_s
        execution.loop.threads.block_until("sqlite3", lambda: False, delay_s)


def _check_thread(connection: Any) -> None:
    made_in = connection._sim_made_in
    if made_in is not None and made_in != get_ident():
        raise modelled(
            sqlite3.ProgrammingError(
                "SQLite objects created in a thread can only be used in that same thread. The "
                f"object was created in thread id {made_in} and this is thread id {get_ident()}."
            )
        )


def _method(real: Callable[..., Any], connection_of: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = connection_of(self)
        if hasattr(connection, "_sim_timeout_s"):
            _check_thread(connection)
            return _waiting(connection, real, (self, *args), kwargs)
        return real(self, *args, **kwargs)

    return method


@functools.cache
def _cursor_class(kind: Any) -> Any:
    methods = {
        name: _method(getattr(kind, name), lambda self: self.connection) for name in _CURSORS
    }
    return type(kind.__name__, (kind,), methods)


@functools.cache
def _connection_class(kind: Any) -> Any:
    real_cursor = kind.cursor

    @functools.wraps(real_cursor)
    @forwards
    def cursor(self: Any, factory: Any = None) -> Any:
        _check_thread(self)
        # What is no class is a function that makes one, and is asked for what it makes.
        kind = sqlite3.Cursor if factory is None else factory
        return real_cursor(self, _cursor_class(kind) if isinstance(kind, type) else kind)

    methods: dict[str, Any] = {
        name: _method(getattr(kind, name), lambda self: self) for name in _CONNECTIONS
    }
    # These make a cursor in C, of a class that does not wait.
    methods |= {name: _by_cursor(getattr(kind, name)) for name in _CURSORS[:3]}
    # Until `connect` has set them, while the connection is made.
    unset = {"_sim_timeout_s": 0.0, "_sim_made_in": None}
    return type(kind.__name__, (kind,), {**methods, **unset, "cursor": cursor})


def _by_cursor(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def method(self: Any, *args: Any) -> Any:
        if real.__name__ == "executemany" and len(args) == 2:
            # An iterator gives its rows once, and there may be a second try.
            args = args[0], [*args[1]]
        return getattr(self.cursor(), real.__name__)(*args)

    return method


def _connecting(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def connect(*args: Any, **kwargs: Any) -> Any:
        if execution_of_this_thread() is None:
            return real(*args, **kwargs)
        given = {name: value for name, value in zip(_POSITIONS, args, strict=False) if name}
        given |= kwargs
        factory = given.get("factory", sqlite3.Connection)
        if not isinstance(factory, type):
            return real(*args, **kwargs)
        rest = dict(enumerate(args))
        for name, value in (("timeout", 0.0), ("factory", _connection_class(factory))):
            position = _POSITIONS.index(name)
            if position in rest:
                rest[position] = value
            else:
                kwargs[name] = value
        made = real(*rest.values(), **kwargs)
        made._sim_timeout_s = float(given.get("timeout", _TIMEOUT_S))
        made._sim_made_in = get_ident() if given.get("check_same_thread", True) else None
        return made

    return connect


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes its place in executions."""
    return _REPLACEMENTS


_REPLACEMENTS: list[tuple[Any, str, Any]] = []
if sqlite3 is not None:
    _CONNECT = _connecting(sqlite3.connect)
    _REPLACEMENTS += [(sqlite3, "connect", _CONNECT), (sqlite3.dbapi2, "connect", _CONNECT)]
