"""`onestream export`: a traced execution as a self-contained test, on stock asyncio.

The file carries the program, the script of its polls, and the shim that plays the script to an
unmodified `asyncio.SelectorEventLoop` (`shim.py` and its like, copied whole).
"""

from __future__ import annotations

import ast
import os
import platform
import re
from pathlib import Path

from sim.export.sources import REPLACED, Bundle, NotExportable
from sim.kernel.outcome import Outcome
from sim.kernel.recording import Recording
from sim.kernel.schedule import Bounds

_HERE = Path(__file__).parent
_COPIED = tuple(f"shim{part}.py" for part in ("", "_numbers", "_intent", "_run", "_judgement"))

_HEAD = """\
# Forced on stock asyncio: an execution that onestream found on CPython {version}.
#
{description}
#
#     python THIS_FILE              the trace; exit code 1 violated, 0 not, 3 not decided
#     python -m pytest THIS_FILE    a test that fails while the property is violated
#
# Once the bug is fixed the program mostly takes another path, which the script does not fit. Then
# its events come in their order, at their places and some polls earlier and later. The test passes
# if nothing is violated, and is skipped if some of the events never came.
#
# It needs {needs}. The event loop is the interpreter's own
# asyncio.SelectorEventLoop, unmodified: its ready queue, timers and tasks are what they always are.
# Scripted are its selector, the clocks, the answers of World.choose and random numbers. {hashes}
# The garbage collector is off meanwhile.

from __future__ import annotations

# What each poll of the loop finds: the clock jumps to a reading, (n, name) the n-th announced
# outside event lands; a poll that is not listed finds nothing. Each reading is 1 ns later.
POLLS: dict[int, list[float | tuple[int, str] | None]] = {polls}
LAST_POLL = {last_poll}
CHOICES: list[tuple[str, int]] = {choices}

PROGRAM = {program!r}
"""

_TAIL = """

SCRIPT = Script(
    POLLS,
    LAST_POLL,
    CHOICES,
    python={version!r},
    hash_seed={hash_seed!r},
    was_violated={was_violated!r},
    lateness_s={bounds.lateness_s!r},
    spin_max={bounds.spin_max!r},
    horizon_s={bounds.horizon_s!r},
    hashes_futures={hashes_futures!r},
    entropy_seed={bounds.entropy_seed!r},
    set_order={bounds.set_order!r},
    clock_s={bounds.clock_s!r},
    wall_s={bounds.wall_s!r},
)
SOURCES = Sources(MODULES, {replaced!r})


def test_{name}() -> None:
    require(SCRIPT, SOURCES, PROGRAM)


if __name__ == "__main__":
    sys.exit(main(SCRIPT, SOURCES, PROGRAM))
"""


def export(outcome: Outcome, bundle: Bundle, bounds: Bounds, description: str) -> str:
    """The text of the file, for a traced outcome; with its violation or without one.

    description: for its reader, the text of the counterexample, say. Raises NotExportable where no
    selector could bring the execution about.
    """
    recording = outcome.recording
    if recording is None or outcome.error is not None:
        raise NotExportable(f"there is no traced execution to export: {outcome.error}")
    if recording.obstacles:
        raise NotExportable(
            f"this execution cannot be forced on a stock event loop: "
            f"{'; '.join(recording.obstacles)}. What can be is decided by what each poll of the "
            f"loop finds, and when. `onestream replay` shows it in the simulator"
        )
    head = _HEAD.format(
        description="\n".join(f"# {line}".rstrip() for line in description.splitlines()),
        version=platform.python_version(),
        needs=" and ".join(["the standard library", *sorted(bundle.packages)]),
        hashes=_hashes(recording),
        polls=_polls(recording),
        last_poll=recording.polls_count,
        choices=_listed(recording.choices),
        program=bundle.program,
    )
    tail = _TAIL.format(
        version=platform.python_version(),
        was_violated=outcome.violation is not None,
        hash_seed=os.environ.get("PYTHONHASHSEED", "random"),
        bounds=bounds,
        hashes_futures=recording.hashes_futures,
        replaced=REPLACED,
        name=re.sub(r"\W+", "_", bundle.program.replace("entry:", "")).strip("_").lower(),
    )
    shim = "\n\n".join(_body(_HERE / name) for name in _COPIED)
    return f"{head}\n{_modules(bundle)}\n\n{_RULE}\n{shim}\n{tail}"


_RULE = f"# {'-' * 30} the shim: nothing below is of this test alone {'-' * 20}\n"


def _hashes(recording: Recording) -> str:
    """A comment that says how the order of sets is made deterministic."""
    if not recording.hashes_futures:
        return (
            "Tasks\n# hash by their names, so that sets of them iterate in one order "
            "(loop.set_task_factory,\n# and loop.create_task, which gives the names)."
        )
    return (
        "Tasks\n# hash by their names, so that sets of them iterate in one order "
        "(loop.set_task_factory,\n# and loop.create_task, which gives the names), "
        "and futures by a counter\n# (loop.create_future)."
    )


def _polls(recording: Recording) -> str:
    lines = [f"    {poll}: {found!r}," for poll, found in recording.polls.items()]
    return "\n".join(["{", *lines, "}"]) if lines else "{}"


def _listed(choices: list[tuple[str, int]]) -> str:
    return "\n".join(["[", *(f"    {each!r}," for each in choices), "]"]) if choices else "[]"


def _modules(bundle: Bundle) -> str:
    """The program's own module first."""
    own = bundle.program.partition(":")[0]
    names = [own, *sorted(set(bundle.sources) - {own})]
    carried = [f"    {name!r}: {_literal(bundle.sources[name])},\n" for name in names]
    return f"MODULES = {{\n{''.join(carried)}}}\n"


def _literal(source: str) -> str:
    """Unchanged in a raw string, where one can hold it."""
    for quotes in ("'''", '"""'):
        if quotes not in source and source.endswith("\n"):
            return f"r{quotes}{source}{quotes}"
    lines = source.splitlines(keepends=True)
    return "\n".join(["(", *(f"        {line!r}" for line in lines or [""]), "    )"])


def _body(file: Path) -> str:
    """The file without its docstring, its __future__ import and its imports from this package."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("sim.", "__future__")
        )
        if is_docstring or is_ours:
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n")
