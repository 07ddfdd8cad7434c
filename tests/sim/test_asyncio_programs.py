"""What programs see of asyncio and of threads is the same on stock asyncio and under schedules."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from sim import World, outcomes
from sim.schedulers import FewDepartures
from tests.sim.asyncio_programs import PROGRAMS, Program
from tests.sim.stock_world import many_switches, run_on_stock

STOCK_RUNS = 3
EXECUTIONS = 8


@pytest.mark.socket
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_what_a_program_sees_is_what_stock_asyncio_shows(program: Program) -> None:
    """None of these depends on the order of events: one answer, in natural order and others."""

    async def on_stock(world: Any) -> object:
        return await program()

    async def simulated(world: World) -> None:
        seen.append(repr(await program()))

    seen: list[str] = []
    for outcome in islice(outcomes(simulated, FewDepartures()), EXECUTIONS):
        assert outcome.error is None
        assert outcome.violation is None
    with many_switches():
        stock = {repr(run_on_stock(on_stock, seed)[1]) for seed in range(STOCK_RUNS)}
    assert len(seen) == EXECUTIONS
    assert set(seen) == stock
