"""What a program learns of its loop, and how it waits, as on the loop that `asyncio.run` makes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sim import World, explore
from sim.exploration.verdict import Verdict
from tests.limits import AMPLE_S

FAR_S = 3600.0


async def told_of_its_class() -> object:
    loop = asyncio.get_running_loop()
    kinds = (asyncio.SelectorEventLoop, asyncio.BaseEventLoop, asyncio.AbstractEventLoop, int)
    return [isinstance(loop, kind) for kind in kinds], loop.__class__.__name__, repr(loop)


async def closes_its_loop() -> object:
    asyncio.get_running_loop().close()
    return None


async def sleeps_for_no_number() -> object:
    return await asyncio.sleep(float("nan"), "slept")


async def arms_for_no_number() -> object:
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    # It may fire when what ends the loop has cancelled who waits.
    loop.call_later(float("nan"), lambda: fired.done() or fired.set_result("fired"))
    return await fired


async def arms_for_no_number_while_it_works() -> object:
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    loop.call_later(float("nan"), fired.set_result, "fired")
    for _ in range(9):
        await asyncio.sleep(0)
    return fired.result()


@pytest.mark.skipif(sys.platform == "win32", reason="its loop is no selector's by default")
@pytest.mark.parametrize(
    "program",
    [told_of_its_class, closes_its_loop, sleeps_for_no_number, arms_for_no_number_while_it_works],
)
def test_the_loop_says_and_does_what_stocks_does(program: Callable[[], Awaitable[object]]) -> None:
    """The same is returned, or the same exception raised, of which the program gets to know."""
    seen: list[str] = []

    async def said() -> str:
        try:
            return repr(await program())
        except Exception as exc:
            return repr(exc)

    async def main(world: World) -> None:
        seen.append(await said())

    report = explore(main, budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text
    assert set(seen) == {asyncio.run(said())}


async def fate_on_stock() -> object:
    """Of what waits for a timer of no number alone."""
    loop = asyncio.new_event_loop()
    try:
        return await asyncio.to_thread(loop.run_until_complete, arms_for_no_number())
    except ValueError as exc:
        return exc
    finally:
        loop.close()


def test_a_loop_that_waits_for_no_number_alone_fires_or_ends_as_stocks_does() -> None:
    """Up to 3.12 the timer is due at once; from 3.13 on the poll raises, for the program to see."""
    on_stock = asyncio.run(fate_on_stock())

    async def program(world: World) -> None:
        assert await arms_for_no_number() == "fired"

    report = explore(program, budget_s=AMPLE_S)
    if isinstance(on_stock, ValueError):
        assert report.verdict == Verdict.REFUTED, report.text
        assert str(on_stock) in report.text
    else:
        assert on_stock == "fired"
        assert report.verdict == Verdict.PROVED, report.text


def test_a_running_loop_that_is_closed_is_the_programs_own_fault() -> None:
    """It is refuted, and no error of the simulator, where nobody catches what is raised."""

    async def program(world: World) -> None:
        await closes_its_loop()

    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == Verdict.REFUTED, report.text
    assert "Cannot close a running event loop" in report.text


async def event_beside_a_far_timer(comes: Callable[[], Awaitable[Any]]) -> None:
    timer = asyncio.get_running_loop().call_later(FAR_S, lambda: None)
    await comes()
    timer.cancel()


async def data_beside_a_far_timer(comes: Callable[[], Awaitable[Any]]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    timer = asyncio.get_running_loop().call_later(FAR_S, server.close)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"a\n")
    assert await reader.readline() == b"a\n"
    timer.cancel()
    writer.close()
    server.close()


async def limit_that_is_far(comes: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(FAR_S):
        await comes()


@pytest.mark.socket
@pytest.mark.parametrize(
    "program", [event_beside_a_far_timer, data_beside_a_far_timer, limit_that_is_far]
)
def test_who_waits_for_what_may_come_does_not_wait_for_a_far_timer(
    program: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]],
) -> None:
    """Nothing is kept waiting until after the horizon; the claim says that the horizon was met."""
    asyncio.run(program(lambda: asyncio.sleep(0)))  # type: ignore[arg-type]

    async def main(world: World) -> None:
        await program(lambda: world.outside("event"))

    report = explore(main, budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text
    assert "hit: horizon_s" in report.text


def test_no_process_waits_for_a_far_timer_of_another() -> None:
    """What may come to one lands, though another process sleeps until after the horizon."""

    async def sleeps_long() -> None:
        asyncio.get_running_loop().call_later(FAR_S, lambda: None)
        await asyncio.get_running_loop().create_future()

    async def program(world: World) -> None:
        async def waits() -> None:
            await world.outside("event")

        sleeper = world.host("sleeper").run(sleeps_long)
        await world.host("waiter").run(waits).ended()
        sleeper.crash()

    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text
    assert "hit: horizon_s" in report.text


def test_who_waits_for_a_far_timer_is_refuted_and_told_which() -> None:
    """Where nothing else can come, the clock would have to go beyond the horizon."""

    async def program(world: World) -> None:
        await world.outside("event")
        await asyncio.sleep(FAR_S)

    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == Verdict.REFUTED, report.text
    assert "not within horizon_s=600: next is the timer of program, at 3600 s" in report.text
    assert "horizon_s=6000" in report.text


def test_a_process_that_waits_for_no_number_alone_ends_by_what_its_loop_raises() -> None:
    """The exception is that process's fate, and the world goes on."""
    on_stock = asyncio.run(fate_on_stock())

    async def program(world: World) -> None:
        process = world.host("a").run(arms_for_no_number)
        ended = await process.ended()
        assert repr(ended.raised) == repr(on_stock if isinstance(on_stock, ValueError) else None)

    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text
