"""The digest in a schedule: it changes when the code under test or the interpreter does."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import CodeType, ModuleType

from sim import kernel
from sim.kernel.errors import ScheduleDoesNotFit

_DEPENDENCIES = ("simpy", "anyio")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which program it is: by its module and name, and by the digest of its code."""

    name: str
    digest: str

    @classmethod
    def of(cls, program: object) -> Identity:
        return cls(name_of(program), digest_of((program,)))

    def require(self, program: object) -> None:
        """Raises ScheduleDoesNotFit if it is another program, or was edited since."""
        given = Identity.of(program)
        if given.name != self.name:
            raise ScheduleDoesNotFit(
                f"the schedule is one of {self.name}, and this is {given.name}: give the program "
                f"that was explored, or explore this one"
            )
        if given.digest != self.digest:
            raise ScheduleDoesNotFit(
                f"the schedule of {self.name} was made with the digest {self.digest}, the code "
                f"here has {given.digest}: its file was edited since, or the interpreter or a "
                f"dependency is another. Explore it again to get a schedule that fits"
            )


def name_of(program: object) -> str:
    """`module:name`, or the name alone of what is in no module."""
    program = _called(program)
    module = getattr(program, "__module__", None)
    name: str = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{module}:{name}" if module else name


def digest_of(sources: Iterable[object]) -> str:
    """8 hex digits: the kernel, Python, dependencies, and the modules of `sources`.

    A package among them stands for all of its files.
    """
    digest = hashlib.sha256(_kernel())
    for source in sources:
        digest.update(_source_of(source))
    return digest.hexdigest()[:8]


def _called(program: object) -> object:
    """What a partial calls, which is the program: the partial is an object of functools."""
    while isinstance(program, functools.partial):
        program = program.func
    return program


@cache
def _kernel() -> bytes:
    # Which Python it is, and not who built it when: that is in `sys.version`, and changes nothing.
    python = (sys.implementation.name, hex(sys.hexversion), sys.abiflags)
    digest = hashlib.sha256(" ".join(python).encode())
    for name in _DEPENDENCIES:
        digest.update(version(name).encode())
    # All on which an execution depends, and nothing else; a test holds it to that.
    digest.update(_package(Path(kernel.__path__[0])))
    return digest.digest()


@cache
def _package(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(_text(path))
    return digest.digest()


def _text(path: Path) -> bytes:
    """Of a file, with the ends of lines as Python reads them, whatever a checkout made of them."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def _source_of(source: object) -> bytes:
    source = _called(source)
    module = source if isinstance(source, ModuleType) else inspect.getmodule(source)
    file = getattr(module, "__file__", None)
    if file is not None and hasattr(source, "__path__"):
        return _package(Path(file).parent)
    if file is not None and Path(file).exists():
        return _text(Path(file))
    # Typed at a prompt: it has no file. An object that is called has the code of its class.
    code = getattr(source, "__code__", None) or getattr(type(source).__call__, "__code__", None)
    return b"\0".join(_parts(code)) if code else name_of(source).encode()


def _parts(code: CodeType) -> Iterator[bytes]:
    """What the code does: without addresses and numbers of lines, and sets in a fixed order."""
    yield code.co_code
    yield " ".join(code.co_names).encode()
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _parts(each)
        else:
            yield repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each).encode()
