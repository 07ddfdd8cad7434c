"""The programs in README.md do what is written beside them."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import typing
from pathlib import Path
from types import ModuleType

import pytest

import sim
import sim.exploration
import sim.runner

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("## Check any asyncio program\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


def is_test_file(block: str) -> bool:
    return block.startswith("# test_")


def test_the_programs_print_what_is_written_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks run one after the other in one module; each `print(…)  # words` prints these."""
    module = ModuleType("readme")
    monkeypatch.setitem(__import__("sys").modules, "readme", module)
    programs = [block for block in BLOCKS if not is_test_file(block)]
    assert len(programs) == 4
    expected: list[str] = []
    output = io.StringIO()
    for block in programs:
        expected += re.findall(r"^ *print\(.*\) +# (.*)$", block, re.MULTILINE)
        with contextlib.redirect_stdout(output):
            exec(compile(block, "README.md", "exec"), vars(module))
    printed = output.getvalue().splitlines()
    assert expected == ["refuted", "refuted", "proved", "3600 s"]
    assert [line for line in printed if line in set(expected)] == expected
    assert any(line.startswith("violated at 0.000 s: both withdrawals count") for line in printed)


def test_the_lost_update_is_mended_as_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`async with lock:` around the three lines, and it is proved."""
    text = BLOCKS[0].partition("report =")[0]
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if "seen = balance" in line)
    mended = [
        *lines[:at],
        "        async with lock:",
        *(f"    {line}" for line in lines[at : at + 3]),
        *lines[at + 3 :],
    ]
    module = ModuleType("readme")
    monkeypatch.setitem(__import__("sys").modules, "readme", module)
    source = "\n".join(mended).replace("balance = 100", "balance = 100; lock = asyncio.Lock()", 1)
    exec(compile(source, "README.md", "exec"), vars(module))
    report = sim.explore(vars(module)["program"])
    assert report.verdict == "proved", report.text


def test_the_lost_letter_needs_a_narrow_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mailbox loses nothing in natural order: running the program once would not show it."""
    module = ModuleType("readme")
    monkeypatch.setitem(__import__("sys").modules, "readme", module)
    with contextlib.redirect_stdout(io.StringIO()):
        for block in BLOCKS[:2]:
            exec(compile(block, "README.md", "exec"), vars(module))
    program = vars(module)["gives_up_waiting"](vars(module)["Mailbox"])
    assert sim.explore(program, strategy="natural").counterexample is None
    report = sim.explore(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "no letter is lost"


def test_the_test_file_passes(pytester: pytest.Pytester) -> None:
    """The tests in the README pass as they stand."""
    (block,) = [block for block in BLOCKS if is_test_file(block)]
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
