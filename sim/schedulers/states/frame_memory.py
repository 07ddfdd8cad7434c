"""Locals and value stack of a frame of a suspended thread, which only its memory tells.

The garbage collector shows those of a coroutine. Of a frame that a thread owns it shows nothing,
and while it calls something in C, not even its memory says how deep the value stack is (before
3.14). So the depth is computed from the code, as CPython's own compiler does.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import dis
import functools
import gc
import operator
import struct
import sys
import sysconfig
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FrameType
from typing import Any, cast

import greenlet

from sim.kernel.errors import Opaque
from sim.schedulers.states.set_layout import address_in_memory, bytes_at

HAVE_FEWER = "have fewer threads, or fewer steps while they run"

# Of PyFrameObject in CPython's pycore_frame.h: after the head its caller, then the frame's memory.
_MEMORY_AT = object.__basicsize__ + struct.calcsize("P")
_WORD = struct.calcsize("P")
# Of _PyInterpreterFrame: eight pointers, how deep the stack is (since 3.14 where it ends), some
# bytes, then the locals and the stack.
_DEPTH_AT = 8 * _WORD
_HAS_POINTER = sys.version_info >= (3, 14)
_VALUES_AT = _DEPTH_AT + (2 if _HAS_POINTER else 1) * _WORD
# What `locals()` has made of a function's frame, and keeps: a place among the pointers.
_SNAPSHOT_AT = (3 if sys.version_info < (3, 12) else 5) * _WORD
# Its code is another of these.
_CODE_AT = (4 if sys.version_info < (3, 12) else 0) * _WORD
# Since 3.14 the lowest bits of a value say what it is.
_TAGS = 3 if _HAS_POINTER else 0
_IS_NUMBER = 3

_object_at = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(("Py_NewRef", ctypes.pythonapi))


@dataclass(frozen=True, slots=True)
class Instruction:
    """Where a frame stands. depth: of the stack before it; effect: what it changes of that.

    callee: how what it calls was loaded, as the two instructions that did it, if it is a call.
    is_tuple: whether its positional arguments were just made a tuple, if it is one of these calls.
    leaves_block: whether it is what a `with` block ends with, as it seems. is_dropped: whether what
    the call ends with goes nowhere.
    """

    offset: int
    opname: str
    arg: int
    depth: int
    effect: int
    callee: tuple[tuple[str, Any], ...] = ()
    is_tuple: bool = False
    leaves_block: bool = False
    is_dropped: bool = False

    @property
    def below_call(self) -> int:
        """How many values lie below what is called."""
        # On 3.11 a call is two instructions, and its operands are there until the second is over.
        return self.depth + self.effect - (2 if self.opname == "PRECALL" else 1)


class FrameMemory:
    """One frame of a suspended thread. Raises Opaque where its code is not understood."""

    def __init__(self, frame: FrameType) -> None:
        if not _is_known():
            raise Opaque("a worker thread, whose stack is unknown on this interpreter", HAVE_FEWER)
        self._read(frame)

    @classmethod
    def unchecked(cls, frame: FrameType) -> FrameMemory:
        made = cls.__new__(cls)
        made._read(frame)
        return made

    def _read(self, frame: FrameType) -> None:
        self.code = frame.f_code
        self.globals = frame.f_globals
        self.instruction = _instruction_at(self.code, frame.f_lasti)
        (self._at,) = _words(address_in_memory(frame) + _MEMORY_AT, 1)
        (code,) = _words(self._at + _CODE_AT, 1)
        if code & ~_TAGS != address_in_memory(self.code):
            raise Opaque("a worker thread, whose stack is unknown on this interpreter", HAVE_FEWER)
        self._places = places_of(self.code)

    @property
    def known_depth(self) -> int | None:
        """How deep the stack is by what its memory says; None where it does not."""
        if _HAS_POINTER:
            (end,) = _words(self._at + _DEPTH_AT, 1)
            return (end - self._at - _VALUES_AT) // _WORD - self._places
        (top,) = struct.unpack("i", bytes_at(self._at + _DEPTH_AT, 4))
        return None if top < 0 else top - self._places

    @property
    def snapshot(self) -> object:
        """The dict that `locals()` has filled, and will again; before 3.13."""
        (address,) = _words(self._at + _SNAPSHOT_AT, 1)
        return _object_at(address) if address else None

    def locals(self) -> Iterator[object]:
        """Of each place whether something is bound there, then what is, cells as such."""
        return self._values(0, self._places)

    def stack(self, depth: int) -> Iterator[object]:
        """The lowest values of the stack."""
        return self._values(self._places, depth)

    def local(self, name: str) -> object:
        """What is bound to it, in its cell if it has one; None if nothing is."""
        code = self.code
        cells = tuple(each for each in code.co_cellvars if each not in code.co_varnames)
        names = (*code.co_varnames, *cells, *code.co_freevars)
        if name not in names or not self._is_bound(names.index(name)):
            return None
        *_, found = self._values(names.index(name), 1)
        if type(found) is CellType:
            return next(iter(gc.get_referents(found)), None)
        return found

    def operand(self, index: int) -> Any:
        """One value of the stack. Raises LookupError where none is there."""
        *_, value = self._values(self._places + index, 1)
        if not self._is_bound(self._places + index):
            raise LookupError(index)
        return value

    def operand_that_is_kept(self, index: int) -> Any:
        """The same if a local has it as well, or the code has just made a tuple of it; else None.

        Otherwise it may be there no more.
        """
        words = _words(self._at + _VALUES_AT, self._places + index + 1)
        is_kept = words[-1] in words[: self._places] or self.instruction.is_tuple
        return _object_at(words[-1] & ~_TAGS) if is_kept and words[-1] & ~_TAGS else None

    def _is_bound(self, index: int) -> bool:
        (word,) = _words(self._at + _VALUES_AT + index * _WORD, 1)
        return bool(word & ~_TAGS)

    def _values(self, begin: int, count: int) -> Iterator[object]:
        if count < 0:
            raise Opaque("a worker thread, whose stack is not understood", HAVE_FEWER)
        words = _words(self._at + _VALUES_AT + begin * _WORD, count)
        yield bytes(_kind(word) for word in words)
        for word in words:
            if word & ~_TAGS:
                is_number = _TAGS and word & _TAGS == _IS_NUMBER
                yield word >> 2 if is_number else _object_at(word & ~_TAGS)


def _kind(word: int) -> int:
    """0: nothing is there; 1: an object; 2: a number that is none."""
    if not word & ~_TAGS and word & _TAGS != _IS_NUMBER:
        return 0
    return 2 if _TAGS and word & _TAGS == _IS_NUMBER else 1


def _words(address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"{count}P", bytes_at(address, count * _WORD))


def places_of(code: CodeType) -> int:
    """How many places there are for locals, cells and what a closure brings."""
    cells = [name for name in code.co_cellvars if name not in code.co_varnames]
    return len(code.co_varnames) + len(cells) + len(code.co_freevars)


def handles_none(frame: FrameType, parts: list[object]) -> bool:
    """Whether what the collector sees of a suspended coroutine ends with its values without this.

    What comes after them is the exception that it handles: None, or nothing before the first one.
    """
    if not _is_known():
        return False
    memory = FrameMemory.unchecked(frame)
    kept = [*memory.locals()][1:] + [*memory.stack(memory.known_depth or 0)][1:]
    ends = parts[len(parts) - len(kept) :]
    return len(ends) == len(kept) and all(map(operator.is_, ends, kept))


# ---- how deep the stack is, from the code ------------------------------------------------------

_known: dict[CodeType, list[Instruction] | None] = {}


def _instruction_at(code: CodeType, offset: int) -> Instruction:
    """In a call the offset may be that of one of its caches, which follow it."""
    if code not in _known:
        _known[code] = _understood(code)
    found = _known[code]
    if found is not None:
        standing = found[bisect_right(found, offset, key=lambda each: each.offset) - 1]
        if standing.depth >= 0:
            return standing
    what = f"a worker thread in {code.co_qualname}, whose stack is not understood"
    raise Opaque(what, HAVE_FEWER)


def _understood(code: CodeType) -> list[Instruction] | None:
    """Each instruction with the depth before it, -1 where none leads to; None if two disagree."""
    listed = list(dis.get_instructions(code))
    at = {each.offset: index for index, each in enumerate(listed)}
    handlers = [
        # What was raised, and, if it asks for it, where.
        (each.start, each.end, each.target, each.depth + each.lasti + 1)
        for each in dis._parse_exception_table(code)  # type: ignore[attr-defined]
    ]
    depths: dict[int, int] = {}
    todo = [(0, 0)]
    while todo:
        offset, depth = todo.pop()
        if depths.setdefault(offset, depth) != depth:
            return None
        for target, depth_there in _followers(listed, at[offset], depth, handlers):
            if depths.get(target) != depth_there:
                if target in depths:
                    return None
                todo.append((target, depth_there))
    return [
        _described(listed, [depths.get(each.offset, -1) for each in listed], index)
        for index in range(len(listed))
    ]


def _described(listed: list[dis.Instruction], depths: list[int], index: int) -> Instruction:
    each = listed[index]
    found = Instruction(
        each.offset, each.opname, each.arg or 0, depths[index], _effect(each, jump=False)
    )
    if each.opname not in CALLS or found.depth < 0:
        return found
    begin = _pushes(depths, index, found.below_call)
    loads = tuple((one.opname, one.argval) for one in listed[begin : begin + 2])
    after = index
    if each.opname == "CALL_FUNCTION_EX" and found.arg & 1:
        after = _pushes(depths, index, found.below_call + 3)
    before = listed[after - 1]
    is_tuple = (before.opname, before.arg or 0) in _MAKES_TUPLE
    arguments = [(one.opname, one.argval) for one in listed[:index] if one.opname != "PRECALL"][-3:]
    leaves = arguments == [("LOAD_CONST", None)] * 3 and found.arg == (3 if _HAS_POINTER else 2)
    is_dropped = listed[index + 1].opname == "POP_TOP"
    return dataclasses.replace(
        found, callee=loads, is_tuple=is_tuple, leaves_block=leaves, is_dropped=is_dropped
    )


def _pushes(depths: list[int], index: int, place: int) -> int:
    """The instruction that has begun to put something there: the last one with such a depth."""
    return max((at for at in range(index) if depths[at] == place), default=index)


CALLS = {"PRECALL", "CALL", "CALL_KW", "CALL_FUNCTION_EX"}


def _followers(
    listed: list[dis.Instruction], index: int, depth: int, handlers: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, int]]:
    """To where an instruction leads, and how deep the stack is there."""
    each = listed[index]
    for start, end, target, depth_there in handlers:
        if start <= each.offset < end:
            yield target, depth_there
    if each.opname not in _LAST and index + 1 < len(listed):
        yield listed[index + 1].offset, depth + _effect(each, jump=False)
    if each.opcode in dis.hasjrel or each.opcode in dis.hasjabs:
        yield each.argval, depth + _effect(each, jump=True)


def _effect(each: dis.Instruction, *, jump: bool) -> int:
    if each.opname == "RETURN_GENERATOR":
        # What is first sent to the generator is there when it goes on.
        return 1
    has_arg = each.opcode >= dis.HAVE_ARGUMENT
    return dis.stack_effect(each.opcode, each.arg if has_arg else None, jump=jump)


_MAKES_TUPLE = {("LIST_TO_TUPLE", 0), ("CALL_INTRINSIC_1", 6)}
"""Instructions of 3.11, and of later versions."""

_LAST = {
    *("RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS", "INTERPRETER_EXIT"),
    *("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"),
}
"""After them the next instruction does not follow."""


# ---- whether it is as it was when this was written ---------------------------------------------


@functools.cache
def _is_known() -> bool:
    """Whether frames of which all is known look as they have to; other versions are not read."""
    if sys.version_info >= UNREAD_FROM or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    thread = greenlet.greenlet(_all_known)
    thread.switch(greenlet.getcurrent())
    last: Any = thread.gr_frame
    try:
        asks, waits = FrameMemory.unchecked(last), FrameMemory.unchecked(last.f_back)
        bound, *local = waits.locals()
        _, goes_on, number, operand = waits.stack(waits.instruction.below_call)
        is_so = (
            asks.code is _ask.__code__
            and waits.code is _all_known.__code__
            and bound == b"\1\1\1\0"
            and local[1:] == [_KEPT, 13]
            and number == 13
            and operand is _KEPT[0]
            and [*copy.copy(cast("Iterator[int]", goes_on))] == [14]
            and asks.operand(asks.instruction.below_call + 2) is _ASKED
        )
    except (Opaque, LookupError, ValueError):
        is_so = False
    thread.throw()
    return is_so


def _all_known(hub: greenlet.greenlet) -> object:
    kept = _KEPT
    for each in (13, 14):
        told = each, kept[0] == _ask(hub)
    return told


def _ask(hub: greenlet.greenlet) -> Any:
    return hub.switch(_ASKED)


_KEPT, _ASKED = [object()], "what is asked"
UNREAD_FROM = (3, 14)
"""The first version of which it is not known."""
