"""Other CPythons of this machine: which there are, and how to run the matrix there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.bugs.base import this_version, version_text
from sim.exploration.tested_pythons import TESTED

# One release of each of these lines is looked for.
LINES = tuple(TESTED)
# A list of further interpreters, or commands that start one, in the form of PATH.
PYTHONS_VARIABLE = "ONESTREAM_PYTHONS"
# What the programs, the simulator and the command import, and what the digest covers.
PACKAGES = ("simpy", "greenlet", "anyio", "httpcore", "rich")
ASKED_S = 20.0
INSTALLED_S = 120.0
RUN_S = 300.0

_ROOT = Path(__file__).parents[2]
_ASK = (
    "import platform, sys;"
    "print(platform.python_implementation(), sys.executable, *sys.version_info[:4])"
)
# Behind the other interpreter's own packages: ours may be compiled for another version.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1));"
_PROBE = _BOOT + "import " + ", ".join(PACKAGES) + "; print('ready')"
_RUN = _BOOT + "from sim.cli import main; sys.exit(main())"
_RUN_ARGUMENTS = ("bugs", "--json", "--this-version")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """version: `3.12.1`, or the line `3.12` if none was found; path: its executable.

    missing: why it cannot be run, and what to do, or None. is_wanted: named by the user.
    """

    version: str
    path: str | None = None
    missing: str | None = None
    is_wanted: bool = False


def find_interpreters(named: Iterable[str] = ()) -> list[Interpreter]:
    """Those that are named, and one CPython of each other line; the running one left out."""
    found = [_asked(path, is_wanted=True) for path in named]
    lines = {_line_of(version_text(this_version())), *(_line_of(each.version) for each in found)}
    for line in LINES:
        if line in lines:
            continue
        candidates = (_asked(path) for path in _candidates(line))
        usable = (
            each for each in candidates if each.missing is None and _line_of(each.version) == line
        )
        found.append(next(usable, Interpreter(line, missing=_none_of(line))))
    return found


def _line_of(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _none_of(line: str) -> str:
    return (
        f"no CPython {line} in {PYTHONS_VARIABLE}, on PATH, in ~/.pyenv/versions or among uv's. "
        f"`uv python install {line}` gets one, or name yours with --python PATH"
    )


def _candidates(line: str) -> list[str]:
    """Paths that may lead to a CPython of this line, the likeliest first."""
    home = Path.home()
    named = [path for path in os.environ.get(PYTHONS_VARIABLE, "").split(os.pathsep) if path]
    by_name = [shutil.which(f"python{line}")]
    installed = [
        *sorted((home / ".pyenv/versions").glob(f"{line}.*/bin/python"), reverse=True),
        *sorted((home / ".local/share/uv/python").glob(f"cpython-{line}*/bin/python{line}")),
    ]
    return [*named, *(str(path) for path in installed), *(path for path in by_name if path)]


def _asked(path: str, *, is_wanted: bool = False) -> Interpreter:
    """The interpreter's version, as it reports it."""
    try:
        answer = _call([path, "-c", _ASK], timeout_s=ASKED_S)
        implementation, executable, *numbers, _ = answer.split()
    except (OSError, ValueError, RuntimeError) as exc:
        reason = f"{path} is no Python that answers: {exc}"
        return Interpreter(path, missing=reason, is_wanted=is_wanted)
    text = ".".join(numbers)
    if implementation != "CPython" or (int(numbers[0]), int(numbers[1])) < (3, 11):
        reason = f"{path} is {implementation} {text}; CPython 3.11 or newer is needed"
        return Interpreter(text, missing=reason, is_wanted=is_wanted)
    # A command that starts one in another root reports a path that does not exist here.
    usable = executable if Path(executable).exists() else path
    return Interpreter(text, usable, is_wanted=is_wanted)


def run_elsewhere(interpreter: Interpreter) -> dict[str, Any]:
    """The column of this interpreter, as JSON. Raises RuntimeError with the reason and a remedy.

    With its own packages if it has them all, else in an environment that uv makes for the purpose.
    """
    assert interpreter.path is not None
    command = _command(interpreter.path)
    try:
        output = _call([*command, "-c", _RUN, str(_ROOT), *_RUN_ARGUMENTS], timeout_s=RUN_S)
        column: dict[str, Any] = json.loads(output)["columns"][0]
    except (OSError, ValueError, LookupError) as exc:
        raise RuntimeError(f"the matrix does not run on {interpreter.path}: {exc}") from exc
    return column


def _command(path: str) -> list[str]:
    """How to start the interpreter so that it has the packages."""
    try:
        _call([path, "-c", _PROBE, str(_ROOT)], timeout_s=ASKED_S)
        return [path]
    except RuntimeError as exc:
        why = f"{path} lacks packages: {_last_line(exc)}"
    pins = [f"{name}=={version(name)}" for name in PACKAGES]
    remedy = f"`{path} -m pip install {' '.join(pins)}`, or name an environment with --python PATH"
    uv = _uv()
    if uv is None:
        raise RuntimeError(f"{why}. There is no uv to provide them; {remedy}")
    with_packages = [part for pin in pins for part in ("--with", pin)]
    base = [*uv, "run", "--quiet", "--no-project", "--isolated", "--python", path, *with_packages]
    failed = ""
    # From uv's cache if they are there, so that it works without a network.
    for options in (["--offline"], []):
        command = [*base, *options, "python"]
        try:
            _call([*command, "-c", _PROBE, str(_ROOT)], timeout_s=INSTALLED_S)
            return command
        except (OSError, RuntimeError) as exc:
            failed = _last_line(exc)
    raise RuntimeError(f"{why}, and uv cannot provide them: {failed}. {remedy}")


def _uv() -> list[str] | None:
    """uv, as `uv run` names it to its children, or on PATH, or as a module of a Python here."""
    for path in (os.environ.get("UV"), shutil.which("uv")):
        if path and _works([path, "--version"]):
            return [path]
    for python in (sys.executable, getattr(sys, "_base_executable", None), shutil.which("python3")):
        if python and _works([python, "-m", "uv", "--version"]):
            return [python, "-m", "uv"]
    return None


def _works(command: Sequence[str]) -> bool:
    try:
        _call(command, timeout_s=ASKED_S)
    except (OSError, RuntimeError):
        return False
    return True


def _call(command: Sequence[str], *, timeout_s: float) -> str:
    """Its standard output. Raises RuntimeError if it fails or takes too long; 1 is a verdict."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]} took longer than {timeout_s:g} s") from None
    if done.returncode != 0 and not done.stdout.startswith("{"):
        raise RuntimeError(done.stderr.strip() or f"it exits with {done.returncode}")
    return done.stdout


def _last_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[-1].strip()
