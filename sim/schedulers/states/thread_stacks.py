"""The stacks of threads that stand still: what of their frames belongs to the state.

A suspended worker will do what its frames say: each stands at an instruction, with its locals and
its value stack (`frame_memory.py`). So will the loop's own thread, where it asks who goes on first.
That is all of it only where one frame has called the next with nothing between them that keeps
something in C, as `sorted` does for its key function. So each call from a frame to the next has to
be one of those below; otherwise the state is unique.
"""

from __future__ import annotations

import asyncio
import builtins
import dis
import functools
import gc
import inspect
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from types import CodeType, FrameType
from typing import Any, cast

from sim.kernel.between_callbacks import BetweenCallbacks
from sim.kernel.diagnosis import place_of_frame
from sim.kernel.errors import Opaque
from sim.kernel.isolation.bound_names import nested_codes
from sim.kernel.living import address_of
from sim.kernel.threads.line_tracing import CALLED_AT_LINES
from sim.kernel.threads.pools import SimExecutor
from sim.kernel.threads.workers import Threads
from sim.schedulers.states.awaited import AWAITED, TASK_STEPS
from sim.schedulers.states.frame_memory import CALLS, HAVE_FEWER, FrameMemory

_callees: dict[int, FrameType | None] = {}
"""Of each known frame, by its address, the frame that it has called; None for the last."""


@contextmanager
def stacks_known(threads: Threads, loops: FrameType | None) -> Iterator[None]:
    """Within the block frames of the workers are read, and of the loop's thread. Raises Opaque.

    loops: the last frame of that, if it is within a callback, or between two.
    """
    held: list[FrameType] = []
    try:
        for worker in threads.workers:
            last = worker.greenlet.gr_frame
            if last is not None and last.f_code is not _LAST:
                raise _unknown("that stands in another greenlet")
            stack = _know(last, held)
            if any(each.f_code is _TURN_OF_LOOP for each in stack):
                # What has called its turn is read of no loop.
                raise _unknown("that runs a loop of its own")
            if worker.handles is not None and any(map(_is_generator, stack)):
                # Each of these may handle another one meanwhile, and then that is not all.
                raise _unknown("whose generator runs while an exception is handled")
        _know(loops, held)
        yield
    finally:
        _callees.clear()


def _is_generator(frame: FrameType) -> bool:
    kinds = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return bool(frame.f_code.co_flags & kinds)


def _know(frame: FrameType | None, held: list[FrameType]) -> list[FrameType]:
    """The frames of one stack."""
    callee: FrameType | None = None
    begin = len(held)
    while frame is not None:
        # Held, so that each is the same object until the state is read.
        held.append(frame)
        _callees[address_of(frame)] = callee
        callee = frame
        frame = None if frame.f_code is _TURN_OF_LOOP else frame.f_back
    return held[begin:]


def frame_that_asks(frame: FrameType | None) -> FrameType | None:
    """From which the loop's thread asks who goes on. Raises Opaque if that is not known."""
    while frame is not None and frame.f_code not in _ASK:
        frame = frame.f_back
    if frame is None:
        raise Opaque("the loop's thread, which asks in an unknown place", HAVE_FEWER)
    return frame


_LAST = Threads._switch_to_hub.__code__
_TURN_OF_LOOP: CodeType = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]
_JOB = SimExecutor._sim_run.__code__
_RUN: CodeType = asyncio.Handle._run.__code__
_ASK = {
    each.__code__
    for each in (
        BetweenCallbacks.between_steps,
        BetweenCallbacks.choose_worker,
        BetweenCallbacks._stand_still,
        BetweenCallbacks.take_signals,
    )
}


def _of_turn(frame: FrameType, memory: FrameMemory) -> Iterator[object]:
    """The loop's own turn: which callback runs, if one does, and how many are to run after it.

    What has called the turn is the same in each execution.
    """
    names = memory.code.co_varnames
    values = memory.locals()
    bound = cast(bytes, next(values))
    found = dict(zip((n for n, b in zip(names, bound, strict=False) if b), values, strict=False))
    yield memory.instruction.offset
    begun, count = found.get("i", -1), found.get("ntodo")
    yield None if count is None else cast(int, count) - cast(int, begun)
    callee = _callees[address_of(frame)]
    if callee is not None and callee.f_code is _RUN:
        yield found.get("handle")


def of_frame(frame: FrameType) -> Iterator[object]:
    """Raises Opaque, also for a frame that is no worker's."""
    if address_of(frame) not in _callees:
        raise Opaque("a frame that the program holds", "hold what is needed of it")
    callee = _callees[address_of(frame)]
    memory = FrameMemory(frame)
    yield memory.code
    if memory.code is _TURN_OF_LOOP:
        yield from _of_turn(frame, memory)
        return
    yield memory.instruction.offset
    yield frame.f_trace is None
    if not memory.code.co_flags & _HAS_FAST_LOCALS:
        raise _unknown(f"in {memory.code.co_qualname}, which is no function")
    # What reads a coroutine leaves an empty one.
    yield memory.snapshot or None
    yield from memory.locals()
    depth, kept = _kept(memory, callee)
    yield from memory.stack(depth)
    yield kept
    yield frame.f_back


# Of CPython's CO_OPTIMIZED: else the locals are a dict.
_HAS_FAST_LOCALS = 1


def _unknown(where: str) -> Opaque:
    return Opaque(f"a worker thread {where}", HAVE_FEWER)


def _within_c(callee: FrameType) -> Opaque:
    """A thread waits in what something written in C has called, of which more is not known."""
    caller = callee.f_back
    assert caller is not None
    where = f"a worker thread that waits within a call in C: {place_of_frame(caller)}"
    return Opaque(where, f"write that call in Python, as a loop in place of list(…), {HAVE_FEWER}")


def _kept(memory: FrameMemory, callee: FrameType | None) -> tuple[int, object]:
    """How many values of the stack the frame finds when the call is over; what C has beside them.

    The operands of the call itself are not read. They are the callee's by then: some calls leave
    them on the stack, others do not, and the interpreter changes from one kind to the other.
    """
    at = memory.instruction
    if callee is None:
        return memory.instruction.below_call, None
    if callee.f_code in CALLED_AT_LINES:
        return at.depth, None
    if at.opname in CALLS:
        return memory.instruction.below_call, _in_call(memory, callee)
    if at.opname == "FOR_ITER" and _is_of(memory.operand(at.depth - 1), callee):
        return at.depth, None
    if at.opname == "SEND" and _is_of(memory.operand(at.depth - 2), callee):
        return at.depth - 1, None
    if at.opname == "BEFORE_WITH" and _enters(memory.operand(at.depth - 1), callee):
        return at.depth, None
    if at.opname == "WITH_EXCEPT_START":
        leaves = memory.operand(at.depth - 4)
        if _leads_to(leaves, (), callee) is not None:
            return at.depth, None
    raise _unknown(f"at {at.opname} in {memory.code.co_qualname}")


def _in_call(memory: FrameMemory, callee: FrameType) -> object:
    """What C keeps of a call that led to this frame. Raises Opaque where that is not known."""
    below = memory.instruction.below_call
    if memory.known_depth == below:
        # Called without C between them: a function, or a class.
        return _kept_without_c(memory, callee)
    kept = None
    if memory.code is _RUN:
        kept = _in_callback(memory, callee)
    elif memory.code is _JOB:
        *_, work = (each for each in memory.locals() if type(each) is functools.partial)
        kept = _leads_to(work, (), callee)
    elif _leaves_block(memory, below, callee):
        kept = ()
    elif (called := _called(memory, below)) is not None:
        kept = _leads_to(*called, callee)
    if kept is None:
        raise _within_c(callee)
    if memory.code not in _HOLD_ARGUMENTS:
        _refuse_lost_arguments(callee)
    return kept


def _kept_without_c(memory: FrameMemory, callee: FrameType) -> tuple[object, ...]:
    """Since 3.13 it may be a class that is called so, and not the method that runs.

    Then the call ends with what was made. The stack does not tell, so what was loaded has to.
    """
    kept = _kept_by_init(callee)
    at = memory.instruction
    if callee.f_code.co_name != "__init__" or not _CLASSES_WITHOUT_C:
        return kept
    begins: Any = getattr(_loaded(memory), "__init__", None)
    if getattr(begins, "__code__", None) is callee.f_code:
        return _MADE
    if at.is_dropped or (at.callee[1:] and at.callee[1][1] == "__init__"):
        return kept
    raise _unknown(f"in {memory.code.co_qualname}, which calls a class, or its __init__")


_CLASSES_WITHOUT_C = sys.version_info >= (3, 13)
_MADE = ("made",)
"""Of a call that ends with what the class has made, whatever its `__init__` returns."""


def _refuse_lost_arguments(callee: FrameType) -> None:
    """C keeps the arguments until the callee has returned, though that may have let go of them.

    No reader finds them there; and what their end does would come later than it seems.
    """
    code = callee.f_code
    if code not in _binds_arguments:
        flags = (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS)
        count = code.co_argcount + code.co_kwonlyargcount
        names = code.co_varnames[: count + sum(bool(code.co_flags & flag) for flag in flags)]
        _binds_arguments[code] = any(
            _binds(each, name) for each in nested_codes(code) for name in names
        )
    if _binds_arguments[code] and not _is_generator(callee):
        raise _unknown(f"in {code.co_qualname}, which binds an argument anew below a call in C")


_binds_arguments: dict[CodeType, bool] = {}
_HOLD_ARGUMENTS = {_RUN, _JOB, threading.Thread.run.__code__}
"""Where an object that is read holds the arguments as well."""


def _in_callback(memory: FrameMemory, callee: FrameType) -> tuple[object, ...] | None:
    (handle,) = (each for each in memory.locals() if isinstance(each, asyncio.Handle))
    callback: Any = handle._callback  # type: ignore[attr-defined]
    steps_task = TASK_STEPS & {type(callback).__name__, getattr(callback, "__name__", "")}
    if sys.exc_info()[1] is not None and not steps_task:
        # A generator may handle another one meanwhile, and then this is not all.
        raise Opaque("a callback that handles an exception", "take the lock after it was handled")
    return _leads_to(callback, tuple(handle._args), callee)


def _leaves_block(memory: FrameMemory, below: int, callee: FrameType) -> bool:
    """Whether a `with` block ends: the call has put the manager where its method was."""
    if not memory.instruction.leaves_block:
        return False
    leaves = getattr(type(_operand(memory, below)), "__exit__", None)
    return type(leaves) is types.FunctionType and leaves.__code__ is callee.f_code


def _called(memory: FrameMemory, below: int) -> tuple[Any, tuple[Any, ...]] | None:
    """What is called, and its arguments.

    None where that is not known: a `partial` with one argument puts it, for the time of the call,
    where it lay itself. So where no method is called, what lies there has to be what was loaded.
    """
    first, second = (_operand(memory, below + index) for index in range(2))
    target, bound = (first, second) if _CALLABLE_FIRST or first is not _NOTHING else (second, first)
    args = _arguments(memory, below + 2)
    if bound is not _NOTHING:
        return target, (bound, *args)
    at = memory.instruction
    if at.opname != "CALL_FUNCTION_EX" and not _was_loaded(target, memory):
        return None
    return target, args


def _was_loaded(target: Any, memory: FrameMemory) -> bool:
    return _loaded(memory) is target


def _loaded(memory: FrameMemory) -> Any:
    """What the code has loaded to call it: a local, a global, or what a module has."""
    loads = tuple(each for each in memory.instruction.callee if each[0] != "PUSH_NULL")
    if not loads:
        return _NOTHING
    how, name = loads[0]
    if how in ("LOAD_FAST", "LOAD_DEREF"):
        loaded = memory.local(name)
    elif how == "LOAD_GLOBAL":
        loaded = memory.globals.get(name, vars(builtins).get(name))
    else:
        return _NOTHING
    if type(loaded) is types.ModuleType and loads[1:] and loads[1][0] in _LOAD_ATTRIBUTE:
        loaded = vars(loaded).get(loads[1][1])
    return loaded


_LOAD_ATTRIBUTE = ("LOAD_METHOD", "LOAD_ATTR")
_NOTHING = object()
_CALLABLE_FIRST = sys.version_info >= (3, 13)
"""Before, a method stands below its `self`, and what is no method above an empty place."""


def _operand(memory: FrameMemory, index: int) -> Any:
    try:
        return memory.operand(index)
    except LookupError:
        return _NOTHING


def _arguments(memory: FrameMemory, index: int) -> tuple[Any, ...]:
    """Those of them that are there to be read; `_UNREAD` stands for the others."""
    at = memory.instruction
    if at.opname != "CALL_FUNCTION_EX":
        return tuple(_operand(memory, index + number) for number in range(at.arg))
    # C may have made a tuple of what lies there, and let go of it, unless it is one.
    found = memory.operand_that_is_kept(index)
    return found if type(found) is tuple else (_UNREAD,)


_UNREAD = object()


def _leads_to(target: Any, args: tuple[Any, ...], callee: FrameType) -> tuple[object, ...] | None:
    """What C keeps of such a call until the callee has returned; None where that is not known."""
    kind = type(target)
    if kind is types.FunctionType:
        return _kept_by_init(callee) if target.__code__ is callee.f_code else None
    if kind is types.MethodType:
        return _leads_to(target.__func__, (target.__self__, *args), callee)
    if kind is functools.partial:
        kept = _leads_to(target.func, (*target.args, *args), callee)
        # It may hold what the call has given another value.
        return None if kept is None else (target, *kept)
    if kind is types.MethodDescriptorType and args:
        return _leads_to_by_c(target.__name__, args[0], args[1:], callee)
    if kind.__name__ in TASK_STEPS:
        tasks = [each for each in gc.get_referents(target) if isinstance(each, asyncio.Task)]
        return () if tasks and _is_of(tasks[0].get_coro(), callee) else None
    if kind in _BUILT_IN:
        return _leads_to_by_c(target.__name__, target.__self__, args, callee)
    if isinstance(target, type):
        is_plain = kind.__call__ is type.__call__
        begins: Any = getattr(target, "__init__", None)
        leads = is_plain and _leads_to(begins, (), callee) is not None
        return _MADE if leads else None
    call: Any = getattr(kind, "__call__", None)  # noqa: B004 - which it is
    return _leads_to(call, (), callee) if type(call) is types.FunctionType else None


_BUILT_IN = {types.BuiltinFunctionType, types.MethodWrapperType}


def _leads_to_by_c(
    name: str, owner: Any, args: tuple[Any, ...], callee: FrameType
) -> tuple[object, ...] | None:
    """The same for a function or method in C that only hands on; its arguments are with it."""
    if type(owner) is Context and name == "run" and args:
        kept = _leads_to(args[0], args[1:], callee)
        return None if kept is None else (owner, *kept)
    if isinstance(owner, asyncio.Task) and name in TASK_STEPS:
        return () if _is_of(owner.get_coro(), callee) else None
    if any(each is _UNREAD for each in args):
        return None
    if owner is sys and name == "call_tracing" and args:
        kept = _leads_to(args[0], (), callee)
        return None if kept is None else (*args[1:], *kept)
    if owner is builtins and name == "next" and args:
        # Also what it ends with where there is no next one.
        return args if _is_of(args[0], callee) else None
    if name in ("send", "throw", "close", "__next__"):
        return (name, owner, *args) if _is_of(owner, callee) else None
    return None


def _is_of(iterator: Any, callee: FrameType) -> bool:
    """Whether this frame is what runs when the iterator is asked for more."""
    if type(iterator) is types.GeneratorType:
        return iterator.gi_frame is callee
    if type(iterator) is types.CoroutineType:
        return iterator.cr_frame is callee
    if type(iterator) is types.AsyncGeneratorType:
        return iterator.ag_frame is callee
    if type(iterator) in AWAITED:
        return any(_is_of(each, callee) for each in gc.get_referents(iterator))
    step = getattr(type(iterator), "__next__", None)
    return type(step) is types.FunctionType and step.__code__ is callee.f_code


def _enters(operand: Any, callee: FrameType) -> bool:
    """On 3.11 what leaves the block lies there already, later still what is entered."""
    manager = operand.__self__ if sys.version_info < (3, 12) else operand
    enter = getattr(type(manager), "__enter__", None)
    return type(enter) is types.FunctionType and enter.__code__ is callee.f_code


def _kept_by_init(callee: FrameType) -> tuple[object, ...]:
    """A class that is called keeps what it has made until `__init__` has returned.

    That is its `self`, which the callee has, unless it binds another object to that name.
    """
    code = callee.f_code
    if code.co_name == "__init__" and code.co_argcount:
        if code not in _binds_self:
            _binds_self[code] = any(
                _binds(each, code.co_varnames[0]) for each in nested_codes(code)
            )
        if _binds_self[code]:
            raise _unknown(f"in {code.co_qualname}, which binds its first argument anew")
    return ()


_binds_self: dict[CodeType, bool] = {}


def _binds(code: CodeType, name: str) -> bool:
    return any(
        each.opname.startswith(("STORE_", "DELETE_")) and name in _names_of(each)
        for each in dis.get_instructions(code)
    )


def _names_of(each: dis.Instruction) -> tuple[Any, ...]:
    """Some instructions of 3.13 bind two."""
    return each.argval if isinstance(each.argval, tuple) else (each.argval,)
