"""What goes from one process to another: pickled, or refused with the name of what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from multiprocessing.reduction import ForkingPickler
from typing import Any

from sim.executors.base import Answer, IsStopped, Task

_SHOWN_MAX = 100


class NotPicklable(ValueError):
    """A task, or what it returns, cannot go to another process."""


def dumped(task: Task) -> bytes:
    """Raises NotPicklable."""
    try:
        return bytes(ForkingPickler.dumps(task))
    except Exception as exc:
        raise _refusal("a task", task, exc) from exc


def answered(task: bytes, is_stopped: IsStopped) -> bytes:
    """In a worker: what the task returns, or the error it raises."""
    try:
        value = ForkingPickler.loads(task)(is_stopped)
    except Exception as exc:
        return _of_error(exc)
    try:
        return bytes(ForkingPickler.dumps((value, None)))
    except Exception as exc:
        return _of_error(_refusal("what a worker has found", value, exc))


def taken(number: int, answer: bytes) -> Answer:
    value, error = ForkingPickler.loads(answer)
    return Answer(number, value, error)


def _of_error(error: Exception) -> bytes:
    """As it is; in words where it would not arrive so."""
    try:
        answer = bytes(ForkingPickler.dumps((None, error)))
        ForkingPickler.loads(answer)
    except Exception:
        return bytes(ForkingPickler.dumps((None, RuntimeError(f"in a worker: {error!r}"))))
    return answer


# ---- what cannot be pickled --------------------------------------------------------------------


def _refusal(what: str, value: object, why: Exception) -> NotPicklable:
    path, part = _culprit(value)
    where = f"at {path} in it " if path else ""
    return NotPicklable(
        f"{what} has to go to another process, and {where}is {_shown(part)}, which cannot be "
        f"pickled: {why}. Make it plain data, or of a class or function that a module has under "
        f"its name; or leave out --jobs and --cluster, as one process pickles nothing"
    )


def _culprit(value: object, path: str = "", above: tuple[int, ...] = ()) -> tuple[str, object]:
    """The innermost part that cannot be pickled, and the way to it. above: what it is a part of."""
    above = (*above, id(value))
    for name, part in _parts(value):
        if id(part) not in above and not _can_be_pickled(part):
            return _culprit(part, path + name, above)
    return path, value


def _can_be_pickled(value: object) -> bool:
    try:
        ForkingPickler.dumps(value)
    except Exception:
        return False
    return True


def _parts(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, partial):
        given = chain(enumerate(value.args), value.keywords.items())
        yield ".func", value.func
        yield from ((f"({name})", each) for name, each in given)
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, each in value.items() for part in (key, each))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", each) for index, each in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("{…}", each) for each in value)
    elif not isinstance(value, type):
        yield from ((f".{name}", each) for name, each in _fields(value))


def _fields(value: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)


def _shown(part: object) -> str:
    name = getattr(part, "__qualname__", None)
    shown = name if isinstance(name, str) else repr(part)
    shown = f"the {type(part).__qualname__} {shown}"
    return shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"
