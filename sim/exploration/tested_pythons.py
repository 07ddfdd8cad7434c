"""Which interpreters this was tested with, and whether the one that runs it is one of them."""

from __future__ import annotations

import platform
import sys

# Of each line of CPython the release that the tests ran on. A verdict may not hold for a newer
# release of a line: some of the bugs in sim/bugs/ were fixed within a line.
TESTED = {
    "3.11": "3.11.7",
    "3.12": "3.12.1",
    "3.13": "3.13.0",
    "3.14": "3.14.10",
    "3.15": "3.15.2",
}


def interpreter() -> str:
    """`CPython 3.14.10 (tested)`, for those who rely on a verdict."""
    return described(platform.python_implementation(), platform.python_version())


def described(implementation: str, version: str) -> str:
    name = f"{implementation} {version}"
    tested = TESTED.get(".".join(version.split(".")[:2]))
    if implementation == "CPython" and version == tested and _has_gil():
        return f"{name} (tested)"
    if implementation != "CPython" or tested is None:
        lines = list(TESTED)
        return f"{name} (not tested with this version: CPython {lines[0]} to {lines[-1]} were)"
    if version == tested:
        return f"{name} (not tested with this version: the build with a lock, GIL, was)"
    return f"{name} (not tested with this version: of its line {tested} was)"


def _has_gil() -> bool:
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return is_enabled is None or bool(is_enabled())
