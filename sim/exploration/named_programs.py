"""A program by its name: `MODULE:PROGRAM` or `FILE.py:PROGRAM`, of a command or a schedule."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from sim.kernel.execution import Program

_FORM = "write MODULE:PROGRAM or FILE.py:PROGRAM, as slots:program or examples/slots.py:program"
_NAMED_MAX = 8


def program_named(name: str) -> Program:
    """Imported. Raises ValueError, with what to do, where there is none of that name."""
    where, _, path = name.rpartition(":")
    if not where or not path:
        raise ValueError(f"{name!r} names no program: {_FORM}")
    if where == "__main__" or "<locals>" in path:
        raise ValueError(
            f"program {name!r} cannot be imported, as it is one of a script, or was made within a "
            f"function: a schedule of it is replayed with counterexample.replay(program)"
        )
    module = _module_of_file(where) if where.endswith(".py") else _module(where)
    found: object = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{where} has no {path!r}; {_programs_of(module)}")
        found = getattr(found, part)
    if not callable(found):
        kind = type(found).__name__
        raise ValueError(
            f"{name} is no function, but of type {kind}: a program is an `async def` that takes "
            f"the world; {_programs_of(module)}"
        )
    return found


def _module_of_file(where: str) -> ModuleType:
    """By the name that the file has from the folder on which its package lies."""
    file = Path(where)
    if not file.is_file():
        raise ValueError(f"there is no file {where}, as seen from {Path.cwd()}")
    folder, parts = file.resolve().parent, [file.stem]
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = _module(".".join(parts))
    if Path(getattr(module, "__file__", None) or "").resolve() != file.resolve():
        raise ValueError(
            f"{where} cannot be imported: another module is called {module.__name__} "
            f"({getattr(module, '__file__', None) or 'built in'}). Give the file another name"
        )
    return module


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # The module itself is missing, or its package; else it is something that it imports.
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            raise ValueError(
                f"there is no module {exc.name!r}: it has to lie in the current directory, on "
                f"PYTHONPATH, or be installed; any other file is named by its path, FILE.py:PROGRAM"
            ) from exc
        raise ValueError(import_failure(name, exc)) from exc
    except (Exception, SystemExit) as exc:
        raise ValueError(import_failure(name, exc)) from exc


def import_failure(name: str, exc: BaseException) -> str:
    """A sentence: the module, what it raised, and where."""
    words = f"module {name} cannot be imported: {type(exc).__name__}: {exc}"
    # Below who asked for the module, and what imports it.
    places = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)[1:]
        if frame.filename != importlib.__file__ and not frame.filename.startswith("<frozen ")
    ]
    if places:
        words += f" (at {places[-1].filename}:{places[-1].lineno})"
    if isinstance(exc, SystemExit):
        words += "; what a script does at its end belongs below `if __name__ == '__main__':`"
    return words


def _programs_of(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__
    ]
    if not names:
        return "there is no `async def` at its top level"
    listed = ", ".join(names[:_NAMED_MAX]) + (", …" if len(names) > _NAMED_MAX else "")
    return f"its async functions are {listed}"
