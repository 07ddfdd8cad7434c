"""What a reported program is: what explore has to say of it, and where stock Python shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from sim import DepartureBounded, Report, World, explore
from sim.kernel.execution import Program
from tests.sim.stock_world import StockWorld, many_switches, run_on_stock

EXECUTIONS_MAX = 20_000


class OnStock(Enum):
    """What runs on stock asyncio, with noise, come to."""

    HOLDS = "holds"
    MAY_FAIL = "may fail"
    FAILS = "always fails"
    NOT_RUN = "not run"
    """It hangs, needs a process of its own, or reaches the outside."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A program of a bug report, or of a reported fault of explore.

    words: what `report.text` has to say. options: for explore, as its user gave them. departures:
    the most that are explored, where all schedules are too many.
    """

    report: str
    name: str
    program: Program
    verdict: str
    on_stock: OnStock
    words: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    departures: int | None = None

    def explored(self) -> Report:
        options = {"max_executions": EXECUTIONS_MAX, **self.options}
        if self.departures is not None:
            options["strategy"] = DepartureBounded(self.departures)
        return explore(self.program, **options)

    def violations_on_stock(self, runs: int) -> int:
        """How many of some runs on stock asyncio violate it."""

        async def program(world: StockWorld) -> None:
            # The programs use what both worlds have.
            await self.program(cast(World, world))

        violations = 0
        with many_switches():
            for seed in range(runs):
                _, result = run_on_stock(program, seed)
                violations += isinstance(result, BaseException)
        return violations
