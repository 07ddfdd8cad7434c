"""What stock asyncio can do, the simulator has among its outcomes: random programs on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.sim.differential import Program, compare, on_stock
from tests.sim.small_programs import small_program

SMALL = (*range(20), 156, 245)
"""The last two see it where what an event calls is called an iteration late."""


def _program(seed: str) -> tuple[str, Program]:
    source = small_program(seed)
    namespace: dict[str, Any] = {"__name__": seed}
    exec(compile(source, seed, "exec"), namespace)
    return source, namespace["program"]


@pytest.mark.socket
@pytest.mark.parametrize(
    ("programs", "runs", "executions_max"),
    [(SMALL, 40, 100), pytest.param(range(400), 1000, 20_000, marks=pytest.mark.soak)],
    ids=["small", "large"],
)
def test_what_stock_asyncio_does_is_explored(
    programs: Sequence[int], runs: int, executions_max: int
) -> None:
    """Each outcome of many noisy runs, with threads, locals and callbacks, comes of some schedule.

    How many outcomes a machine shows differs; that each is simulated must not.
    """
    outcomes = undecided = executions = 0
    for number in programs:
        source, program = _program(f"differential {number}")
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
