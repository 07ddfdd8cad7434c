"""What a mutant is: production with one line changed or one safeguard removed, in a block."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Protocol

from sim.bench.subjects.mutants.wrong_line import right_line, wrong_line


class Patch(Protocol):
    """Breaks production and restores it; pytest's monkeypatch is one, too."""

    def setattr(self, target: Any, name: str, value: Any) -> None: ...

    def setitem(self, mapping: Any, name: Any, value: Any) -> None: ...


Break = Callable[[Patch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug with its name. level: whose scenarios judge it. likely: those to try first.

    instead: lines of production that it makes otherwise, each with the function that it is in;
    where none are given, they are told from the functions that it replaces.
    """

    level: str
    breaks: Break
    likely: tuple[str, ...] = ()
    instead: tuple[tuple[Callable[..., object], str], ...] = ()

    @property
    def name(self) -> str:
        return self.breaks.__name__

    @property
    def description(self) -> str:
        """What is lost, in a sentence: the docstring, or else the name says it."""
        return inspect.getdoc(self.breaks) or self.name.replace("_", " ")

    @property
    def line(self) -> int:
        """Where it differs from production."""
        return _line_of(self)

    @property
    def place(self) -> str:
        """Where it is broken, to be read."""
        file = Path(self.breaks.__code__.co_filename)
        return f"({file.parent.name}/{file.name}:{self.line})"


class Undoable:
    """A Patch that can be undone; the last change is undone first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def setattr(self, target: Any, name: str, value: Any) -> None:
        before = inspect.getattr_static(target, name)
        is_own = name in vars(target)
        setattr(target, name, value)
        if is_own:
            self._undo.append(lambda: setattr(target, name, before))
        else:
            self._undo.append(lambda: delattr(target, name))

    def setitem(self, mapping: MutableMapping[Any, Any], name: Any, value: Any) -> None:
        if name in mapping:
            before = mapping[name]
            self._undo.append(lambda: mapping.__setitem__(name, before))
        else:
            self._undo.append(lambda: mapping.__delitem__(name))
        mapping[name] = value

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


class _Noting:
    """A Patch that changes nothing."""

    def __init__(self) -> None:
        self.replaced: list[CodeType] = []

    def setattr(self, target: Any, name: str, value: Any) -> None:
        found = inspect.getattr_static(target, name, None)
        if isinstance(found, property):
            found = found.fget
        code = getattr(inspect.unwrap(found), "__code__", None) if callable(found) else None
        if code is not None:
            self.replaced.append(code)

    def setitem(self, mapping: MutableMapping[Any, Any], name: Any, value: Any) -> None: ...


def replaced_by(mutant: Mutant) -> tuple[CodeType, ...]:
    """The functions of production that it replaces."""
    noting = _Noting()
    mutant.breaks(noting)
    return tuple(noting.replaced)


def counterparts(mutant: Mutant) -> tuple[tuple[str, int], ...]:
    """The lines of production that it has otherwise: files and numbers, asked while production is
    whole."""
    if mutant.instead:
        return tuple(_place_of(function, text) for function, text in mutant.instead)
    assert isinstance(mutant.breaks, FunctionType)
    return tuple(
        (code.co_filename, right_line(mutant.breaks, code)) for code in replaced_by(mutant)
    )


def _place_of(function: Callable[..., object], text: str) -> tuple[str, int]:
    """Raises StopIteration where the function has no such line."""
    lines, first = inspect.getsourcelines(function)
    file = inspect.getsourcefile(function)
    assert file is not None
    return file, next(first + at for at, line in enumerate(lines) if line.strip() == text)


@cache
def _line_of(mutant: Mutant) -> int:
    assert isinstance(mutant.breaks, FunctionType)
    return wrong_line(mutant.breaks, replaced_by(mutant))


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Production has the bug within the block."""
    # Where is known as long as what it replaces is in its place.
    _line_of(mutant)
    patch = Undoable()
    try:
        mutant.breaks(patch)
        yield
    finally:
        patch.undo()
