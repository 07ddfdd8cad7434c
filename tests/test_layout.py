"""Where helpers stand: what tests/README.md says of it."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MODULES = sorted(TESTS.rglob("*.py"))


@cache
def imported_by(path: Path) -> set[str]:
    """The modules of tests that a module imports, as far as its own statements say."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "tests"}


def test_helpers_are_imported_from_helper_modules() -> None:
    """No module imports a test module or a conftest: what is shared has a module of its own."""
    wrong = [
        (str(path.relative_to(TESTS)), name)
        for path in MODULES
        for name in imported_by(path)
        if name.split(".")[-1] in {each.stem for each in MODULES if is_collected(each)}
    ]
    assert wrong == []


def is_collected(path: Path) -> bool:
    return path.name.startswith("test_") or path.name == "conftest.py"


def test_asserts_of_helpers_explain_themselves(pytestconfig: pytest.Config) -> None:
    """pytest rewrites the asserts of every module that a test imports from here."""
    rewritten = pytestconfig.pluginmanager.rewrite_hook._must_rewrite  # type: ignore[attr-defined]
    rooms = {".".join(name.split(".")[:2]) for path in MODULES for name in imported_by(path)}
    assert "tests.executed" in rooms
    assert rooms <= rewritten


def test_bytecode_is_kept() -> None:
    """Whatever the environment says: else each process of a test compiles all that it imports."""
    assert not sys.dont_write_bytecode
