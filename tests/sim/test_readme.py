"""The programs in README.md, and in those of the rooms, do what is written next to them."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
import typing
from pathlib import Path
from types import ModuleType

import pytest

import sim
import sim.exploration.search
import sim.runner
from tests.sim.documents import (
    WITH_PROGRAMS,
    counterexamples,
    lasting,
    programs,
    pytest_modules,
)

MANUAL = "sim/README.md"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, typing.Any]:
    """Of a module in which the blocks of a document run, one after the other."""
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    return vars(module)


def run(source: str, names: dict[str, typing.Any], file: str = "slots.py") -> str:
    """Runs a block; what it prints. file: as a counterexample of the document names it."""
    # As a script, under a name of its own.
    source = source.replace('if __name__ == "__main__":', "if True:")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(source, file, "exec"), names)
    return output.getvalue()


@pytest.mark.parametrize("document", WITH_PROGRAMS)
def test_the_programs_print_what_is_written_beside_them(
    document: str, names: dict[str, typing.Any]
) -> None:
    """Each `print(…)  # words` of a document prints these, and its programs the counterexamples."""
    blocks = programs(document)
    assert blocks
    expected = [
        words
        for block in blocks
        for words in re.findall(r"^ *print\(.*\) +# (.*)$", block, re.MULTILINE)
    ]
    printed = "".join(run(block, names) for block in blocks)
    assert [line for line in printed.splitlines() if line in set(expected)] == expected
    for command, text in counterexamples(document):
        assert command is not None or lasting(text) in lasting(printed)


def test_the_manual_shows_each_verdict(names: dict[str, typing.Any]) -> None:
    """The programs of sim/README.md are refuted, refuted and proved, then one sleeps an hour."""
    printed = "".join(run(block, names) for block in programs(MANUAL)).splitlines()
    verdicts = ("refuted", "proved", "3600 s")
    assert [each for each in printed if each in verdicts] == ["refuted", *verdicts]
    assert any(line.startswith("violated at 0.000 s: both withdrawals count") for line in printed)


def test_the_lost_update_is_fixed_as_the_manual_says(names: dict[str, typing.Any]) -> None:
    """`async with lock:` around the three lines, and it is proved."""
    lines = programs(MANUAL)[0].partition("report =")[0].splitlines()
    at = next(number for number, line in enumerate(lines) if "seen = balance" in line)
    fixed = [
        *lines[:at],
        "        async with lock:",
        *(f"    {line}" for line in lines[at : at + 3]),
        *lines[at + 3 :],
    ]
    source = "\n".join(fixed).replace("balance = 100", "balance = 100; lock = asyncio.Lock()", 1)
    run(source, names)
    report = sim.explore(names["program"])
    assert report.verdict == "proved", report.text


def test_the_lost_letter_needs_a_narrow_schedule(names: dict[str, typing.Any]) -> None:
    """The mailbox loses nothing in natural order: running the program once would not show it."""
    for block in programs(MANUAL)[:2]:
        run(block, names, "mailbox.py")
    program = names["gives_up_waiting"](names["Mailbox"])
    assert sim.explore(program, strategy="natural").counterexample is None
    report = sim.explore(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "no letter is lost"
    ((_, shown),) = counterexamples("sim/counterexamples/README.md")
    assert lasting(report.counterexample.text) == lasting(shown.rstrip())


def test_the_test_file_passes(pytester: pytest.Pytester) -> None:
    """The tests in the manual pass as they stand."""
    (block,) = pytest_modules(MANUAL)
    pytester.makepyfile(test_mailbox=block)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*2 explored: proved 2, executions *"])


def test_the_public_names_are_there_and_documented() -> None:
    """Each name of `sim.__all__` exists and has a docstring; the package says that it is typed."""
    assert sorted(sim.__all__) == sim.__all__
    for name in sim.__all__:
        assert inspect.getdoc(getattr(sim, name)), name
    assert set(sim.__all__) <= set(dir(sim))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = sim.nonsense  # type: ignore[attr-defined]
    assert (Path(sim.__file__).parent / "py.typed").exists()
    assert (Path(sim.__file__).parent.parent / "registry" / "py.typed").exists()


@pytest.mark.parametrize("name", ["World", "Report", "Counterexample", "explore"])
def test_what_users_call_is_annotated_and_documented(name: str) -> None:
    """Every public method has a docstring or none to say, and every parameter a type."""
    found = getattr(sim, name)
    functions = [found] if inspect.isfunction(found) else _methods(found)
    for function in functions:
        hints = typing.get_type_hints(function, vars(inspect.getmodule(function)))
        missing = set(inspect.signature(function).parameters) - {"self"} - set(hints)
        assert not missing, f"{function.__qualname__}: {missing}"


def _methods(cls: type) -> list[typing.Any]:
    return [
        value
        for name, value in vars(cls).items()
        if inspect.isfunction(value) and not name.startswith("_")
    ]
