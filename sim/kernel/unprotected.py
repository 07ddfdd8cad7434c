"""Frames in which for a while nothing is caught, whatever they say: the last means to end a step.

`while True: try: … except: pass` takes what is raised in it for another failure, and two such loops
one within the other try again wherever they are broken off. Where an exception goes is read from a
table of the code when it is raised (`co_exceptiontable`); one whose ranges are all empty has it
leave the frame, without `except`, `finally` or the end of a `with`. So it is done to a step alone
that has to go, first to the program's own frames; and what the table was is put back.
"""

from __future__ import annotations

import _thread
import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

# Bound here: an exploration puts another one into `threading`.
_NEW_LOCK = _thread.RLock
_HEADER = bytes.__basicsize__ - 1
"""Of a bytes object: behind it, with one more at their end, are its bytes."""
_GOES_ON, _VALUE = 64, 63
"""In each byte of a number: another follows, and the part of the number."""


class Unprotected:
    """tables: by code, what its table was.

    Two threads use it, the one that is watched and the watchdog's, and of the former a signal's
    handler may do so in the middle of either method: then it does nothing, and asks again later.
    """

    def __init__(self) -> None:
        self._tables: dict[int, tuple[CodeType, bytes]] = {}
        self._lock = _NEW_LOCK()
        self._is_in_use = False

    def take(self, frames: Iterable[FrameType]) -> None:
        with self._alone() as is_alone:
            for frame in frames if is_alone else ():
                code = frame.f_code
                table = code.co_exceptiontable
                if table and id(code) not in self._tables:
                    # A copy, as the object itself is about to change.
                    self._tables[id(code)] = code, bytes(bytearray(table))
                    _write(table, without_ranges(table))

    def give_back(self) -> None:
        with self._alone() as is_alone:
            if is_alone:
                # The last first: two codes may have one table, which the second has found empty.
                for code, table in reversed(self._tables.values()):
                    _write(code.co_exceptiontable, table)
                self._tables.clear()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether this thread was not in the middle of another such block."""
        with self._lock:
            is_alone = not self._is_in_use
            self._is_in_use = True
            try:
                yield is_alone
            finally:
                self._is_in_use = not is_alone


def without_ranges(table: bytes) -> bytes:
    """The same entries, each for no instruction: see Objects/exception_handling_notes.txt.

    An entry is four numbers: where it begins, how long it is, where its handler is, and how deep.
    """
    emptied = bytearray()
    number = 0
    for byte in table:
        is_length = number % 4 == 1
        emptied.append(byte & ~_VALUE if is_length else byte)
        number += not byte & _GOES_ON
    return bytes(emptied)


def _write(into: bytes, table: bytes) -> None:
    assert len(into) == len(table)
    ctypes.memmove(id(into) + _HEADER, table, len(table))
