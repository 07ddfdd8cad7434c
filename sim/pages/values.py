"""Values at a moment, as text: what the program shows, or the variables of what stands there.

To read them runs no code of the program's: no `__repr__`, no property, no method of a subclass.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import sys
import threading
import types
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType
from typing import Any

from sim.kernel.diagnosis import frames_of
from sim.kernel.loop import SimLoop
from sim.kernel.origin import is_own_code
from sim.kernel.threads.locks import StandIn
from sim.kernel.world import World

# Whose it is, and its name.
Values = dict[tuple[str, str], str]

# A page is to be read: of more tasks, variables and letters the first ones are shown.
STANDING_MAX = 12
FRAMES_MAX = 3
VALUES_MAX = 40
TEXT_MAX = 200
_ITEMS_MAX = 6
_DEPTH_MAX = 3

_PLAIN = (int, float, complex, bool, str, bytes, bytearray, type(None), type(Ellipsis))
# Nothing that changes.
_SILENT = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    CodeType,
    type,
    type(threading.Lock()),
    type(threading.RLock()),
    StandIn,
    World,
)


@dataclass(frozen=True, slots=True)
class _Stands:
    """who: a task or thread. Where it stands, in code of the program's own."""

    who: str
    code: CodeType
    variables: dict[str, object]


def values_of(loops: Iterable[SimLoop], running: FrameType | None) -> Values:
    """The variables of each task and thread that is not over, where the program's own code stands.

    running: the innermost frame of the program's that runs now, if one does.
    """
    standing = list(_standing(loops, running))
    made = {
        (name, id(value))
        for each in standing
        for name, value in each.variables.items()
        if name in each.code.co_cellvars
    }
    counts = Counter(each.who for each in standing)
    found: Values = {}
    objects: dict[int, tuple[str, object]] = {}
    for each in standing:
        owner = each.who if counts[each.who] == 1 else f"{each.who}, in {each.code.co_name}"
        for name, value in each.variables.items():
            # A variable of the function around it, which is shown itself.
            is_anothers = name in each.code.co_freevars and (name, id(value)) in made
            if name == "self":
                objects.setdefault(id(value), (type(value).__name__, value))
            elif _is_told(name, value) and not is_anothers:
                found[owner, name] = text_of(value)
    for owner, value in _numbered(objects.values()):
        for name, part in _attributes(value):
            if _is_told(name, part):
                found[owner, name] = text_of(part)
    return dict(list(found.items())[:VALUES_MAX])


def _standing(loops: Iterable[SimLoop], running: FrameType | None) -> Iterator[_Stands]:
    stack = _stack(running)
    for who, frames in islice(_actors(loops, stack), STANDING_MAX):
        own = [each for each in frames if is_own_code(each.f_code.co_filename)]
        for frame in own[-FRAMES_MAX:]:
            is_suspended = bool(frame.f_code.co_flags & inspect.CO_COROUTINE) and frame not in stack
            yield _Stands(who, frame.f_code, _variables(frame, is_suspended))


def _actors(
    loops: Iterable[SimLoop], stack: list[FrameType]
) -> Iterator[tuple[str, list[FrameType]]]:
    for loop in loops:
        for task in loop.tasks:
            if not task.done():
                frames = frames_of(task.get_coro())
                if frames and frames[-1] in stack:
                    # And what it has called.
                    frames += stack[stack.index(frames[-1]) + 1 :]
                yield loop.lane + task.get_name(), frames
        for worker in loop.threads.workers:
            is_running = worker is loop.threads.current
            frames = stack if is_running else _stack(worker.greenlet.gr_frame)
            yield loop.lane + worker.identity.shown, frames


def _variables(frame: FrameType, is_suspended: bool) -> dict[str, object]:
    """Before 3.13 to read them makes a dict that the frame keeps, and what is in it. From that
    of a frame that runs, a trace function may take the variables back."""
    names = frame.f_locals
    variables = dict(names)
    if is_suspended and type(names) is dict:
        names.clear()
    return variables


def _stack(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _is_told(name: str, value: object) -> bool:
    return not name.startswith("__") and not _is(value, *_SILENT)


def _numbered(objects: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Of one class each object has a number, in the order in which they are met."""
    met = list(objects)
    names = [name for name, _ in met]
    for at, (name, value) in enumerate(met):
        number = f" {names[:at].count(name) + 1}" if names.count(name) > 1 else ""
        yield f"{name}{number}", value


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """Those of the object itself, without asking it."""
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType) and not name.startswith("__"):
                try:
                    yield name, slot.__get__(value)
                except AttributeError:  # it has none yet
                    continue
    yield from _dict_of(value).items()


def _dict_of(value: object) -> dict[str, object]:
    for kind in type(value).__mro__:
        found = vars(kind).get("__dict__")
        if isinstance(found, types.GetSetDescriptorType):
            return dict(found.__get__(value))
    return {}


# ---- a value as text ----------------------------------------------------------------------------


def _is(value: object, *kinds: type) -> bool:
    """As `isinstance`, which asks an object for its `__class__`."""
    return issubclass(type(value), kinds)


def text_of(value: object) -> str:
    text = _text(value, 0)
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def _text(value: object, depth: int) -> str:
    kind = type(value)
    if kind in _PLAIN:
        return _plain(value)
    if _is(value, enum.Enum):
        return f"{kind.__name__}.{_dict_of(value).get('_name_')}"
    if _is(value, asyncio.Future, asyncio.Lock, asyncio.Event, asyncio.Semaphore):
        return _of_asyncio(value)
    if _is(value, BaseException, *_SILENT):
        return kind.__name__
    for base, braces in _CONTAINERS.items():
        if _is(value, base):
            return _contents(value, base, braces, depth)
    file = _file_of(kind)
    if depth >= _DEPTH_MAX or not file or not is_own_code(file):
        return kind.__name__
    parts = (
        f"{name}={_text(part, depth + 1)}"
        for name, part in _attributes(value)
        if _is_told(name, part)
    )
    return f"{kind.__name__}({_listed(parts)})"


def _plain(value: Any) -> str:
    if isinstance(value, str | bytes | bytearray) and len(value) > TEXT_MAX:
        value = value[:TEXT_MAX]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    return repr(value)


def _of_asyncio(value: Any) -> str:
    if _is(value, asyncio.Task):
        name = asyncio.Task.get_name(value)
        return f"task {name}{_result_of(value)}"
    if _is(value, asyncio.Future):
        return f"future{_result_of(value)}"
    if _is(value, asyncio.Lock):
        return "locked" if value._locked else "not locked"
    if _is(value, asyncio.Event):
        return "set" if value._value else "not set"
    return f"{value._value} free"


def _result_of(future: Any) -> str:
    state = future._state
    if state == "PENDING":
        return ", pending"
    if state == "CANCELLED":
        return ", cancelled"
    failure = future._exception
    return ", done" if failure is None else f", failed with {type(failure).__name__}"


_CONTAINERS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    deque: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
}


def _contents(value: Any, base: type, braces: tuple[str, str], depth: int) -> str:
    if depth >= _DEPTH_MAX:
        return braces[0] + "…" + braces[1]
    if base is dict:
        pairs = dict.items(value)
        texts = (f"{_text(key, depth + 1)}: {_text(each, depth + 1)}" for key, each in pairs)
        return braces[0] + _listed(texts) + braces[1]
    iterate: Callable[[Any], Iterator[object]] = base.__iter__  # type: ignore[attr-defined]
    parts: Iterable[str] = (_text(each, depth + 1) for each in iterate(value))
    if base in (set, frozenset):
        parts = sorted(parts)
    return braces[0] + _listed(parts) + braces[1]


def _listed(parts: Iterable[str]) -> str:
    shown: list[str] = []
    for at, part in enumerate(parts):
        if at == _ITEMS_MAX:
            shown.append("…")
            break
        shown.append(part)
    return ", ".join(shown)


def _file_of(kind: type) -> str:
    """Where the class was written, as its module says; empty of what is written in C."""
    module = sys.modules.get(kind.__module__)
    return getattr(module, "__file__", None) or ""


@dataclass(frozen=True, slots=True)
class Change:
    """text: None if it is there no more."""

    owner: str
    name: str
    text: str | None


def changes(before: Values, now: Values) -> list[Change]:
    """What leads from the one to the other."""
    gone = [Change(*each, None) for each in before if each not in now]
    return gone + [Change(*each, text) for each, text in now.items() if before.get(each) != text]
