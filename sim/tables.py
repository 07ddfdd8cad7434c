"""Tables as text: rich aligns and wraps, and there are no frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

# The width where the output is not a terminal, and of a table that must not be wrapped.
WIDE = 1000


def table_text(rows: Iterable[Sequence[str]], *, width: int = WIDE) -> str:
    """A line for each row, and more where its last cell is wrapped. No line ends with blanks."""
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for row in rows:
        while len(table.columns) < len(row):
            table.add_column(no_wrap=True)
        table.add_row(*row)
    table.columns[-1].no_wrap = False
    console = Console(width=width, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
