"""What a line of source reads and writes that others may share, as far as its text shows it:
attributes, what lies under them, and variables of an outer function or of the module."""

from __future__ import annotations

import ast
import builtins
import linecache
from dataclasses import dataclass, field
from functools import cache


@dataclass(frozen=True, slots=True)
class Access:
    """owner: the variable whose attribute it is; "" of a variable of an outer function or of the
    module. name: the attribute; "" for what the variable itself contains. key: under which key of
    it, where the source says so. is_late: it may come after what its statement awaits. scope: the
    name of the code that it runs in, where that is no function with a name, but one in its line."""

    owner: str
    name: str
    key: ast.expr | None = None
    is_late: bool = False
    scope: str = ""


# Methods of containers that change them.
_CHANGING = frozenset(
    """add append appendleft clear discard extend insert pop popitem popleft remove setdefault
    update""".split()  # noqa: SIM905
)
# Those whose first argument is a key, or an element.
_KEYED = frozenset(("add", "discard", "get", "pop", "remove", "setdefault"))
# Code within a line that runs when it is called, and not with the line.
_SCOPES = ("<lambda>", "<genexpr>")


@dataclass(slots=True)
class Function:
    """first, last: its lines. said: those of its docstring."""

    name: str
    first: int
    last: int
    said: range = range(0)


@dataclass(slots=True)
class Accesses:
    """Of a file, by line. awaiting: the lines of statements that give the loop back."""

    reads: dict[int, list[Access]] = field(default_factory=dict)
    writes: dict[int, list[Access]] = field(default_factory=dict)
    awaiting: set[int] = field(default_factory=set)
    # Of simple statements that have several lines: one may begin more than once in one run.
    spread: set[int] = field(default_factory=set)
    # Those that call something else first, or take a lock: in a thread they may wait there.
    calling: set[int] = field(default_factory=set)
    functions: list[Function] = field(default_factory=list)
    # Of each `except`, `finally` and `with` its first and its last line.
    handlers: list[tuple[int, int]] = field(default_factory=list)
    finals: list[tuple[int, int]] = field(default_factory=list)
    withs: list[tuple[int, int]] = field(default_factory=list)

    def of_line(
        self, line: int, scope: str, *, is_resumed: bool
    ) -> tuple[list[Access], list[Access]]:
        """What it reads and writes as it begins; one that awaits writes as it goes on."""
        reads = [each for each in self.reads.get(line, []) if each.is_late or not is_resumed]
        writes = self.writes.get(line, []) if is_resumed == (line in self.awaiting) else []
        scope = scope if scope in _SCOPES else ""
        of_scope = [[one for one in each if one.scope == scope] for each in (reads, writes)]
        return of_scope[0], of_scope[1]

    def function_at(self, line: int) -> Function | None:
        """The innermost one that has the line."""
        around = [each for each in self.functions if each.first <= line <= each.last]
        return min(around, key=lambda each: each.last - each.first, default=None)

    def handler_at(self, line: int) -> tuple[int, int] | None:
        return _innermost(self.handlers, line)

    def final_at(self, line: int) -> tuple[int, int] | None:
        return _innermost(self.finals, line)

    def with_at(self, line: int) -> tuple[int, int] | None:
        return _innermost(self.withs, line)


def _innermost(spans: list[tuple[int, int]], line: int) -> tuple[int, int] | None:
    around = [each for each in spans if each[0] <= line <= each[1]]
    return min(around, key=lambda each: each[1] - each[0], default=None)


@cache
def accesses_of(file: str) -> Accesses:
    """Nothing of a file that cannot be read as Python."""
    found = Accesses()
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return found
    _Reader(found).visit(tree)
    return found


class _Reader(ast.NodeVisitor):
    def __init__(self, found: Accesses) -> None:
        self.found = found
        # Of each function around: the names that it shares with an outer one.
        self._shared: list[set[str]] = []
        self._scope = ""
        # Where the first `await` of the innermost statement ends.
        self._awaited: tuple[int, int] | None = None

    def visit(self, node: ast.AST) -> None:
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        outer = self._awaited
        ends = [_end(each) for each in ast.walk(node) if isinstance(each, ast.Await)]
        self._awaited = min(ends, default=None)
        is_simple = not hasattr(node, "body") and not isinstance(node, ast.Match)
        if is_simple and node.end_lineno not in (None, node.lineno):
            self.found.spread.update(range(node.lineno, (node.end_lineno or 0) + 1))
        if is_simple and any(map(_may_wait, ast.walk(node))):
            self.found.calling.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        super().visit(node)
        self._awaited = outer

    def _visit_within(self, scope: str, node: ast.AST) -> None:
        outer, self._scope = self._scope, scope
        self.visit(node)
        self._scope = outer

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._visit_within("<lambda>", node.body)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """What the first `for` goes through is evaluated where it stands."""
        first, *others = node.generators
        self.visit(first.iter)
        for each in (node.elt, first.target, *first.ifs, *others):
            self._visit_within("<genexpr>", each)

    # -- functions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        last = node.end_lineno or node.lineno
        self.found.functions.append(Function(node.name, first, last, _docstring(node)))
        declared = {
            name
            for each in ast.walk(node)
            if isinstance(each, (ast.Nonlocal, ast.Global))
            for name in each.names
        }
        self._shared.append(declared)
        self.generic_visit(node)
        self._shared.pop()

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    # -- spans

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        for handler in node.handlers:
            self.found.handlers.append((handler.lineno, handler.end_lineno or handler.lineno))
        if node.finalbody:
            end = node.finalbody[-1]
            self.found.finals.append((node.finalbody[0].lineno, end.end_lineno or end.lineno))
        self.generic_visit(node)

    def visit_TryStar(self, node: ast.TryStar) -> None:
        self.visit_Try(node)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        self.found.withs.append((node.lineno, node.end_lineno or node.lineno))
        if node.body[0].lineno == node.lineno:
            self.found.calling.add(node.lineno)
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.visit_With(node)

    def visit_Await(self, node: ast.Await) -> None:
        self.found.awaiting.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        self.generic_visit(node)

    # -- accesses

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._touch(node, node, None, is_write=not isinstance(node.ctx, ast.Load))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._touch(node, node, None, is_write=not isinstance(node.ctx, ast.Load))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """What is put into a container, or taken out of it, changes that."""
        is_write = not isinstance(node.ctx, ast.Load)
        if self._touch(node, node.value, node.slice, is_write=is_write):
            self.visit(node.slice)
        else:
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        target: ast.expr = node.target
        key: ast.expr | None = None
        if isinstance(node.target, ast.Subscript):
            target, key = node.target.value, node.target.slice
        self._touch(node, target, key, is_write=False)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Whether a key is in it."""
        right = node.comparators[0]
        is_in = len(node.ops) == 1 and isinstance(node.ops[0], (ast.In, ast.NotIn))
        if is_in and self._touch(node, right, node.left, is_write=False):
            self.visit(node.left)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """A container's method reads it, or changes it; another method's name is nothing shared."""
        function = node.func
        if not isinstance(function, ast.Attribute):
            self.generic_visit(node)
            return
        is_write = function.attr in _CHANGING
        key = node.args[0] if function.attr in _KEYED and node.args else None
        if not self._touch(node, function.value, key, is_write=is_write):
            self.visit(function.value)
        for each in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(each)

    def _touch(
        self, node: ast.expr | ast.stmt, of: ast.expr, key: ast.expr | None, *, is_write: bool
    ) -> bool:
        """Whether that is something that others may share."""
        if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name):
            owner, name = of.value.id, of.attr
        elif isinstance(of, ast.Name) and self._shared and of.id in self._shared[-1]:
            owner, name = "", of.id
        elif isinstance(of, ast.Name) and (key is not None or _changes(node)):
            owner, name = of.id, ""
        else:
            return False
        is_late = self._awaited is not None and (node.lineno, node.col_offset) >= self._awaited
        access = Access(owner, name, key, is_late, self._scope)
        lines = self.found.writes if is_write else self.found.reads
        lines.setdefault(node.lineno, []).append(access)
        return True


def _end(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def _changes(node: ast.AST) -> bool:
    """Whether it calls a method that changes a container."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr in _CHANGING


def _may_wait(node: ast.AST) -> bool:
    """Whether it is a call of anything but a container's method or a builtin function."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr not in (_CHANGING | _KEYED)
    return not (isinstance(function, ast.Name) and hasattr(builtins, function.id))


def _docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    if ast.get_docstring(node, clean=False) is None:
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or node.body[0].lineno) + 1)
