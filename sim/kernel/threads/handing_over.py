"""Before which lines CPython lets one thread overtake another, or runs the handler of a signal.

With its GIL it hands over where it calls something, jumps backwards or begins a function (and where
C waits), and nowhere else: between `seen = n` and `n = seen + 1` with plain numbers never. There an
order of lines is one of other numbers, whose `__add__` is Python, or of a build without the GIL.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

# Beside calls: these call what may be Python, or C that waits.
_HAND_OVER = ("CALL", "RESUME", "YIELD", "SEND", "BEFORE_WITH", "WITH_EXCEPT", "IMPORT", "FOR_ITER")


@functools.lru_cache(maxsize=4096)
def hands_over_before(file: str, line: int) -> bool:
    """Whether something in the line, or in the one before it of its function, hands over.

    True as well where that cannot be read.
    """
    is_free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    try:
        code = None if is_free else compile(Path(file).read_text(), file, "exec")
    except (OSError, SyntaxError, ValueError):
        return True
    functions = [] if code is None else [each for each in _all_in(code) if line in _lines(each)]
    return not functions or any(_may_hand_over(each, line) for each in functions)


def _all_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_in(constant)


def _lines(code: CodeType) -> set[int]:
    return {line for _, _, line in code.co_lines() if line is not None}


def _may_hand_over(code: CodeType, line: int) -> bool:
    before = max((each for each in _lines(code) if each < line), default=line)
    return any(
        each.opname.startswith(_HAND_OVER) or "JUMP_BACKWARD" in each.opname
        for each in dis.get_instructions(code)
        if each.positions is not None and each.positions.lineno in (line, before)
    )
