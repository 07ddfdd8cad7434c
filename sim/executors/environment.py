"""What a worker works with: only where that is the same can it do the work of another."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from re import match
from socket import gethostname

_PACKAGES = ("registry", "server", "sim")


@dataclass(frozen=True, slots=True)
class Environment:
    """python: which one, and its version. packages: those that onestream needs, with versions.

    code: the digest of onestream's own. program: that of the user's file, "" where there is none.
    """

    host: str
    folder: str
    python: str
    packages: tuple[str, ...]
    code: str
    program: str

    @classmethod
    def here(cls, program: str = "") -> Environment:
        """program: FILE.py:NAME or MODULE:NAME, of a program or a registry."""
        return cls(
            gethostname(), str(Path.cwd()), _python(), _packages(), _code(), _digest(program)
        )

    def why_not(self, other: Environment) -> str:
        """Why the other one cannot work for this one, and what to do; "" if it can."""
        if other.python != self.python:
            return (
                f"the node {other.host} is refused: it runs {other.python}, and this is "
                f"{self.python}. Start Ray there with this interpreter"
            )
        if other.code != self.code:
            return (
                f"the node {other.host} is refused: its code of onestream has the digest "
                f"{other.code}, and this one has {self.code}. Install the same version there"
            )
        if other.packages != self.packages:
            mine, its = set(self.packages), set(other.packages)
            return (
                f"the node {other.host} is refused: it has {_listed(its - mine)}, and here is "
                f"{_listed(mine - its)}. Install the same there"
            )
        if other.program != self.program:
            return (
                f"the node {other.host} is refused: the program's file there has the digest "
                f"{other.program or 'of none: it is missing'}, and here {self.program}, as seen "
                f"from {other.folder}. Copy it there, under the same path"
            )
        return ""


def _listed(packages: set[str]) -> str:
    return ", ".join(sorted(packages)) or "none of them"


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


@cache
def _packages() -> tuple[str, ...]:
    try:
        needed = requires("onestream") or []
    except PackageNotFoundError:
        # It runs from a folder, and not installed.
        needed = []
    return tuple(sorted({_with_version(each) for each in needed if _is_needed(each)}))


def _is_needed(requirement: str) -> bool:
    """By executions: of the extras that is `server` alone."""
    _, is_extra, extra = requirement.partition("extra ==")
    return not is_extra or "server" in extra


def _with_version(requirement: str) -> str:
    name = match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    try:
        return f"{name[0]} {version(name[0])}"
    except PackageNotFoundError:
        return f"no {name[0]}"


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            digest.update(f"no {package}".encode())
            continue
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder).as_posix()}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _digest(program: str) -> str:
    where = program.rpartition(":")[0]
    if not where:
        return ""
    if where.endswith(".py"):
        file: str | None = where
    else:
        try:
            spec = find_spec(where)
        except ModuleNotFoundError:
            spec = None
        file = spec.origin if spec is not None else None
    if file is None or not Path(file).is_file():
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
