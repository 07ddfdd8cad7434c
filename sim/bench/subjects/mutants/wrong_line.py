"""At which line a mutant differs from production: what it does otherwise, not where it begins; and
what production has there."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

# How many statements of a copy of production's function may be others.
FEW = 2


def wrong_line(breaks: FunctionType, replaced: Iterable[CodeType]) -> int:
    """The first statement of its functions that the code that it replaces has not.

    One that only calls what is replaced, and one that only asks for a condition, are taken if there
    is no other; of a mutant without functions of its own, where it replaces something.
    """
    lines, first = inspect.getsourcelines(breaks)
    tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        # A lambda's line has nothing beside it.
        return first
    known = {text for code in replaced for text in _statements_of(code)}
    own = [
        each
        for node in ast.walk(tree)
        if node is not tree and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for each in _statements(node)
        if ast.unparse(each) not in known
    ]
    originals = {
        target.id
        for each in tree.body
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    simple = [each for each in own if not hasattr(each, "body")]
    telling = [each for each in simple if not originals & _called(each)]
    outside = [each for each in tree.body if isinstance(each, ast.Expr) and not _is_aside(each)]
    found = (telling or simple or own or outside or [tree])[0]
    return first + found.lineno - 1


def right_line(breaks: FunctionType, replaced: CodeType) -> int:
    """The first statement of production's function that the mutant has not, where it has all but
    a few of it; else that at which the function begins."""
    lines, _ = inspect.getsourcelines(breaks)
    own = {ast.unparse(each) for each in ast.walk(ast.parse(textwrap.dedent("".join(lines))))}
    statements = _statements_with_lines(replaced)
    telling = [
        each for each in statements if each.is_simple and each.text not in ("return", "pass")
    ]
    missing = [each for each in telling if each.text not in own]
    is_a_copy = 0 < len(missing) <= FEW and len(missing) < len(telling)
    return missing[0].line if is_a_copy else _begins(replaced)


def _begins(code: CodeType) -> int:
    """Its `def`, below its decorators."""
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    begins = (
        at for at, line in enumerate(lines) if line.lstrip().startswith(("def ", "async def "))
    )
    return code.co_firstlineno + next(begins, 0)


@dataclass(frozen=True, slots=True)
class _Statement:
    """is_simple: without others within it."""

    line: int
    text: str
    is_simple: bool


def _statements_with_lines(code: CodeType) -> list[_Statement]:
    source = inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :])
    node = ast.parse(textwrap.dedent("".join(source))).body[0]
    return [
        _Statement(
            code.co_firstlineno + each.lineno - 1, ast.unparse(each), not hasattr(each, "body")
        )
        for each in _statements(node)
    ]


def _statements_of(code: CodeType) -> Iterator[str]:
    return (each.text for each in _statements_with_lines(code))


def _statements(node: ast.stmt) -> list[ast.stmt]:
    """Those within it, in the order of their lines."""
    within = (each for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node)
    own = [each for each in within if not _is_aside(each)]
    return sorted(own, key=lambda each: each.lineno)


def _is_aside(node: ast.stmt) -> bool:
    """A docstring, or what tells mypy only what it cannot see."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Assert)


def _called(node: ast.stmt) -> set[str]:
    return {
        each.func.id
        for each in ast.walk(node)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)
    }
