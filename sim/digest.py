"""The digest in a schedule: it changes when the code under test or the interpreter does."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parent.parent
_DEPENDENCIES = ("simpy", "anyio")
# What an execution at each level runs of ours.
_ROOMS_BY_LEVEL = {
    "program": ("sim",),
    "registry": ("sim", "registry"),
    "server": ("sim", "registry", "server"),
}


def digest_of(level: str, sources: Iterable[object]) -> str:
    """8 hex digits: our rooms at this level, the modules of `sources`, Python, dependencies."""
    digest = hashlib.sha256(_rooms(level))
    for source in sources:
        digest.update(_source_of(source))
    return digest.hexdigest()[:8]


@cache
def _rooms(level: str) -> bytes:
    digest = hashlib.sha256(sys.version.encode())
    for name in _DEPENDENCIES:
        digest.update(version(name).encode())
    for room in _ROOMS_BY_LEVEL[level]:
        for path in sorted((_ROOT / room).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.digest()


def _source_of(source: object) -> bytes:
    module = source if isinstance(source, ModuleType) else inspect.getmodule(source)
    file = getattr(module, "__file__", None)
    if file is not None and Path(file).exists():
        return Path(file).read_bytes()
    code = getattr(source, "__code__", None)
    return repr(source).encode() if code is None else bytes(code.co_code)
