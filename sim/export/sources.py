"""Which modules a self-contained test contains, so that it needs none of ours or the user's."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType

_OURS = ("sim", "registry", "server")
# The shim replaces these modules: it has what programs and the bench use of them.
REPLACED = (
    "sim",
    "sim.kernel.errors",
    "sim.kernel.execution",
    "sim.exploration.search",
    "sim.kernel.loop",
    "sim.bench.subjects.at_server",
    "sim.kernel.world",
)
# What a script is called in the file: `__main__` is the file itself there.
_SCRIPT = "program_under_test"


class NotExportable(ValueError):
    """It cannot be replayed on stock asyncio in a file of its own; says why, and what to do."""


@dataclass(slots=True)
class Bundle:
    """program: as `module:name`. sources: the text of each module, by its name. packages: what has
    to be installed to run them, besides the standard library."""

    program: str
    sources: dict[str, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)


def bundle_of(program: Callable[..., object]) -> Bundle:
    """The program's module, and what it imports of the user's own. Raises NotExportable."""
    module = inspect.getmodule(program)
    if module is None:
        raise NotExportable(f"{program!r} is in no module; {_MAKE_IT_A_FUNCTION}")
    name = _SCRIPT if module.__name__ == "__main__" else module.__name__
    attribute, appended = _found(program, module)
    bundle = Bundle(f"{name}:{attribute}")
    _add(bundle, name, module)
    if appended:
        bundle.sources[name] += (
            f"\n\n# The program, out of the function that it was made in.\n{appended}"
        )
    return bundle


def bundle_of_entry(source: str) -> Bundle:
    """For a module of a few lines that defines `program`."""
    bundle = Bundle("entry:program", {"entry": source})
    for imported in _imported(source, "entry", is_package=False):
        _add(bundle, imported, sys.modules[imported])
    return bundle


_MAKE_IT_A_FUNCTION = "make it a function at the top level of a module, and explore that"


def _found(program: Callable[..., object], module: ModuleType) -> tuple[str, str]:
    """Its name in the module, and what has to be appended to the module for it to be there."""
    for name, value in vars(module).items():
        if value is program:
            return name, ""
    found: object = module
    for part in (qualname := getattr(program, "__qualname__", "")).split("."):
        found = getattr(found, part, None)
    if found is program:
        return qualname, ""
    if isinstance(program, FunctionType) and not program.__code__.co_freevars:
        name = program.__name__
        if name.isidentifier():
            return name, textwrap.dedent(inspect.getsource(program))
    raise NotExportable(
        f"{qualname or program!r} of {module.__name__} cannot be named outside of the function "
        f"that it was made in, whose variables it uses; {_MAKE_IT_A_FUNCTION}"
    )


def _add(bundle: Bundle, name: str, module: ModuleType) -> None:
    top = name.partition(".")[0]
    if name in bundle.sources or name in REPLACED or top in sys.stdlib_module_names:
        return
    file = getattr(module, "__file__", None)
    if top not in _OURS and file is not None and _is_installed(Path(file)):
        bundle.packages.add(top)
        return
    if file is None and hasattr(module, "__path__"):
        source = ""
    elif file is None or not file.endswith(".py"):
        raise NotExportable(
            f"module {name} has no source that a file could carry ({file or 'no file'}); install "
            f"it as a package, or leave it out of the program"
        )
    else:
        source = Path(file).read_text(encoding="utf-8")
    bundle.sources[name] = source
    parents = [] if top in _OURS else _parents(name)
    for imported in (*parents, *_imported(source, name, hasattr(module, "__path__"))):
        _add(bundle, imported, sys.modules[imported])


def _is_installed(file: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _parents(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    parents = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return [parent for parent in parents if parent in sys.modules]


def _imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """The loaded modules that it names in its imports."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in sys.modules)
