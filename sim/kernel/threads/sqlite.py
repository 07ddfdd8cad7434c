"""SQLite in simulated threads: it waits for another connection's lock in virtual time.

The library is written in C. It sleeps in real time until it has a lock, so that no other worker
could give it up, and "database is locked" would be the answer of the simulator; and it knows one
thread of the system, where stock Python refuses a connection that another thread has made.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Iterator, Sequence
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
_ENDS = ("commit", "rollback", "__exit__")
_CONNECTIONS = (*_ENDS, "close")


class _Holds(enum.IntEnum):
    """What the transaction of a connection has of the database.

    Who reads, and wants to write where another does already, is not let wait: that one waits for
    the readers. SQLite says at once that it is busy, whatever the time limit.
    """

    NOTHING = 0
    READS = 1
    WRITES = 2


def _held(connection: Any, statement: str, values: Sequence[Any]) -> _Holds:
    """What the transaction has after this statement, by what SQLite has made of it."""
    if not connection.in_transaction:
        return _Holds.NOTHING
    before: _Holds = connection._sim_holds
    if before is _Holds.WRITES:
        return before
    try:
        plan = sqlite3.Cursor(connection).execute(f"explain {statement}", *values).fetchall()
    except sqlite3.Error:
        return before
    # Each begins a transaction of a database: its number (1 is for temporary tables) and its kind.
    begun = [row[3] for row in plan if row[1] == "Transaction" and row[2] != 1]
    return max(before, _Holds.WRITES if any(begun) else _Holds.READS) if begun else before


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
            is_let_wait = connection._sim_holds is not _Holds.READS
            is_over = waited_s >= connection._sim_timeout_s
            if execution is None or not (is_busy and is_let_wait) or is_over:
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


@forwards
def _execute(real: Callable[..., Any], cursor: Any, statement: Any, *values: Any) -> Any:
    connection = cursor.connection
    found = _waiting(connection, real, (cursor, statement, *values), {})
    connection._sim_holds = _held(connection, statement, values)
    return found


@forwards
def _executemany(real: Callable[..., Any], cursor: Any, statement: Any, rows: Any) -> Any:
    """Without a transaction each row is one; what waits goes on with the row that has waited."""
    to_come = iter(rows)
    # The row that was taken last.
    last: list[Any] = []

    def each() -> Iterator[Any]:
        yield from last
        for row in to_come:
            last[:] = [row]
            yield row

    connection = cursor.connection
    found = _waiting(connection, lambda: real(cursor, statement, each()), (), {})
    connection._sim_holds = _held(connection, statement, last)
    return found


@forwards
def _executescript(real: Callable[..., Any], cursor: Any, script: str) -> Any:
    """One statement after the other: what waits is the one that was told to."""
    connection = cursor.connection
    # It ends a transaction where there is one, and says so if this is not a text.
    _waiting(connection, real, (cursor, "" if isinstance(script, str) else script), {})
    connection._sim_holds = _held(connection, "", ())
    # So that none is begun by itself.
    level = connection.isolation_level if _begins_by_itself(connection) else None
    if level is not None:
        connection.isolation_level = None
    try:
        for statement in _statements(script):
            other = sqlite3.Cursor(connection)
            _execute(sqlite3.Cursor.execute, other, statement)
            _waiting(connection, other.fetchall, (), {})
    finally:
        if level is not None:
            connection.isolation_level = level
    return cursor


def _begins_by_itself(connection: Any) -> bool:
    """Since 3.12 it may have been asked not to."""
    legacy = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None)
    return legacy is None or connection.autocommit == legacy


def _statements(script: str) -> Iterator[str]:
    begun = ""
    for part in re.split("(?<=;)", script):
        begun += part
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""
    if begun.strip():
        yield begun


def _method(real: Callable[..., Any], connection_of: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = connection_of(self)
        if hasattr(connection, "_sim_timeout_s"):
            _check_thread(connection)
            by_statement, arguments = _BY_STATEMENT.get(real, (_execute, range(0)))
            if len(args) in arguments and not kwargs:
                return by_statement(real, self, *args)
            found = _waiting(connection, real, (self, *args), kwargs)
            if real.__name__ in _ENDS:
                connection._sim_holds = _Holds.NOTHING
            return found
        return real(self, *args, **kwargs)

    return method


@functools.cache
def _cursor_class(kind: Any) -> Any:
    methods = {
        name: _method(getattr(kind, name), lambda self: self.connection) for name in _CURSORS
    }
    return type(kind.__name__, (kind,), {**_named_as(kind), **methods})


def _named_as(kind: type) -> dict[str, Any]:
    """As the program, its logs and our sentences speak of it."""
    return {"__module__": kind.__module__, "__qualname__": kind.__qualname__}


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
    unset = {"_sim_timeout_s": 0.0, "_sim_made_in": None, "_sim_holds": _Holds.NOTHING}
    return type(kind.__name__, (kind,), {**_named_as(kind), **methods, **unset, "cursor": cursor})


def is_of_execution(kind: type) -> bool:
    """Whether it is the class of a connection that an execution has made."""
    return hasattr(kind, "_sim_timeout_s")


def _by_cursor(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def method(self: Any, *args: Any) -> Any:
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
# With how many arguments each is CPython's own method, and not one of a class of the program's.
_BY_STATEMENT: dict[Any, tuple[Callable[..., Any], range]] = {}
if sqlite3 is not None:
    _BY_STATEMENT[sqlite3.Cursor.execute] = _execute, range(1, 3)
    _BY_STATEMENT[sqlite3.Cursor.executemany] = _executemany, range(2, 3)
    _BY_STATEMENT[sqlite3.Cursor.executescript] = _executescript, range(1, 2)
    _CONNECT = _connecting(sqlite3.connect)
    _REPLACEMENTS += [(sqlite3, "connect", _CONNECT), (sqlite3.dbapi2, "connect", _CONNECT)]
