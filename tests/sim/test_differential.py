"""What stock asyncio can do, the simulator has among its outcomes: random programs on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.sim.differential import Program, compare, on_stock
from tests.sim.small_programs import small_program
from tests.sim.wide_programs import wide_program

SMALL = (*range(10), 156, 245)
"""The last two see it where what an event calls is called an iteration late."""


WIDE = (4, 12, 13, 23, 29, 32, 35)
"""Of the first those with several outcomes."""


def _program(seed: str, writes: Callable[[str], str]) -> tuple[str, Program]:
    source = writes(seed)
    namespace: dict[str, Any] = {"__name__": seed}
    exec(compile(source, seed, "exec"), namespace)
    return source, namespace["program"]


@pytest.mark.socket
@pytest.mark.parametrize(
    ("writes", "programs", "runs", "executions_max"),
    [
        (small_program, SMALL, 30, 100),
        (wide_program, WIDE, 20, 100),
        pytest.param(small_program, range(400), 1000, 20_000, marks=pytest.mark.soak),
        pytest.param(wide_program, range(2000), 100, 1000, marks=pytest.mark.soak),
    ],
    ids=["small", "wide", "large", "large and wide"],
)
def test_what_stock_asyncio_does_is_explored(
    writes: Callable[[str], str], programs: Sequence[int], runs: int, executions_max: int
) -> None:
    """Each outcome of many noisy runs, with threads, locals and callbacks, comes of some schedule.

    How many outcomes a machine shows differs; that each is simulated must not.
    """
    outcomes = undecided = executions = 0
    for number in programs:
        source, program = _program(f"differential {number}", writes)
        stock = on_stock(program, range(runs))
        found = compare(program, stock, executions_max)
        assert found.missing == [], source
        outcomes += len(stock)
        undecided += len(found.undecided)
        executions += found.executions
    print(
        f"{outcomes} outcomes in {len(programs) * runs} runs, {undecided} undecided, {executions=}"
    )
    assert outcomes > len(programs)
    assert undecided < outcomes / 2
