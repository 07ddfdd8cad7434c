"""How long something is on its way, and what may be proved of a program with a time limit."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from sim import World, explore
from sim.exploration.verdict import Verdict
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S


def asks(*, limit_s: float, late_max_s: float = math.inf, latency_s: float = 0.0) -> Any:
    """A client that gives up after so long; its answer is several writes."""

    async def program(world: World) -> None:
        world.network.late_max_s = late_max_s
        world.network.latency_s = latency_s
        world.network.may_cut = False

        async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            for part in (b"a", b"b\n"):
                writer.write(part)
            writer.close()

        async with await asyncio.start_server(answers, "127.0.0.1", 7000):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            writer.write(b"question\n")
            try:
                async with asyncio.timeout(limit_s):
                    world.check(await reader.readline() == b"ab\n", "the answer is whole")
            except TimeoutError:
                world.fail("it is answered in time")
            finally:
                writer.close()

    return program


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        # Without a bound every limit is passed.
        (asks(limit_s=100.0), Verdict.REFUTED),
        # There and back, and a second late each.
        (asks(limit_s=1.9, late_max_s=1.0), Verdict.REFUTED),
        (asks(limit_s=2.1, late_max_s=1.0), Verdict.PROVED),
        (asks(limit_s=2.3, late_max_s=1.0, latency_s=0.2), Verdict.REFUTED),
        (asks(limit_s=2.5, late_max_s=1.0, latency_s=0.2), Verdict.PROVED),
        (asks(limit_s=0.5, late_max_s=0.0, latency_s=0.2), Verdict.PROVED),
    ],
)
def test_a_time_limit_is_proved_where_what_is_late_has_a_bound(
    program: Any, verdict: Verdict
) -> None:
    """To two departures: a question and its answer, each as late as it may be."""
    report = explore(program, strategy=DepartureBounded(2), budget_s=AMPLE_S)
    assert report.verdict == verdict, report.text


def test_what_is_written_together_is_on_its_way_together() -> None:
    """Each write takes the link's latency, and does not begin it when the one before it lands."""

    async def program(world: World) -> None:
        world.network.latency_s = 1.0
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        async def hears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(3)
            world.check(loop.time() - written < 1.1, "it takes a second, not three")
            writer.close()
            ended.set()

        async with await asyncio.start_server(hears, "127.0.0.1", 7000):
            _, writer = await asyncio.open_connection("127.0.0.1", 7000)
            written = loop.time()
            for _ in range(3):
                writer.write(b"x")
            await ended.wait()
            writer.close()

    report = explore(program, strategy=DepartureBounded(0), budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text
