"""Signals to processes of hosts, and processes that stand still."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sim import World
from sim.kernel.hosts.run import How
from tests.sim.host_programs import passes, traced

# ---- signals, pauses ---------------------------------------------------------------------------


def test_signals_go_to_the_process_they_are_sent_to() -> None:
    """Its handler runs in its loop; without one the signal ends it, without `finally`."""
    log: list[str] = []

    async def main(name: str, handles: bool) -> None:
        done = asyncio.Event()
        if handles:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
        try:
            await done.wait()
        finally:
            log.append(name)

    async def program(world: World) -> None:
        polite = world.host("polite").run(main, "polite", True)
        rude = world.host("rude").run(main, "rude", False)
        await world.signal(signal.SIGTERM, to=rude)
        assert (await rude.ended()).value == signal.SIGTERM
        assert log == []
        assert polite.pid is not None
        os.kill(polite.pid, signal.SIGTERM)
        assert (await polite.ended()).how is How.RETURNED
        with pytest.raises(ProcessLookupError):
            os.kill(1001, signal.SIGTERM)

    passes(program)
    assert log == ["polite"]


@pytest.mark.parametrize("by", ["kill", "raise_signal"])
def test_what_a_process_sends_to_itself_is_there_before_its_next_line(by: str) -> None:
    """As on stock: its handler has run, also one that is there for this line alone; or it ends."""
    log: list[str] = []

    async def main(handles: bool) -> None:
        def send() -> None:
            if by == "kill":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                signal.raise_signal(signal.SIGTERM)

        if handles:
            before = signal.signal(signal.SIGTERM, lambda sig, frame: log.append("handled"))
            send()
            signal.signal(signal.SIGTERM, before)
        else:
            send()
        log.append("went on")
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        assert (await world.host("a").run(main, True).ended()).how is How.RETURNED
        end = await world.host("b").run(main, False).ended()
        assert (end.how, end.value) == (How.KILLED, signal.SIGTERM)

    passes(program)
    assert log == ["handled", "went on"]


def test_handlers_of_signal_signal_are_each_processs_own() -> None:
    """One process's handler is not another's, nor the program's."""
    log: list[str] = []

    async def main(name: str) -> None:
        before = signal.signal(signal.SIGTERM, lambda sig, frame: log.append(name))
        assert before is signal.SIG_DFL
        await asyncio.sleep(5)

    async def program(world: World) -> None:
        first, second = (world.host(name).run(main, name) for name in ("a", "b"))
        await asyncio.sleep(1)
        await world.signal(signal.SIGTERM, to=second)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert (await second.ended()).how is (await first.ended()).how is How.RETURNED

    passes(program)
    assert log == ["b"]


@pytest.mark.parametrize("is_pause", [True, False], ids=["pause", "freeze"])
def test_a_pause_leaves_the_clock_running_and_a_freeze_does_not(is_pause: bool) -> None:
    """What a process that stands still missed by its own clock; its callbacks are kept."""
    seen: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(round(loop.time(), 3))

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main)
        await asyncio.sleep(1.5)
        process.pause() if is_pause else host.freeze()
        await asyncio.sleep(5)
        process.resume() if is_pause else host.thaw()
        await process.ended()

    passes(program)
    assert seen == ([1, 6.5, 7.5] if is_pause else [1, 2, 3])


# ---- SIGINT, as asyncio.run has it -------------------------------------------------------------


async def interrupted(send: Callable[[], object], *, is_stubborn: bool = False) -> None:
    try:
        send()
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        if not is_stubborn:
            raise


@pytest.mark.parametrize("is_stubborn", [False, True])
@pytest.mark.parametrize("by", ["kill", "raise_signal", "a thread", "world"])
def test_sigint_cancels_the_main_task_and_what_leaves_it_is_an_interrupt(
    by: str, is_stubborn: bool
) -> None:
    """As on stock, where nothing handles the signal; who goes on ends well."""
    sends: dict[str, Callable[[Any], object]] = {
        "kill": lambda _: os.kill(os.getpid(), signal.SIGINT),
        "raise_signal": lambda _: signal.raise_signal(signal.SIGINT),
        "a thread": lambda _: threading.Thread(
            target=os.kill, args=(os.getpid(), signal.SIGINT)
        ).start(),
        "world": lambda world: world.signal(signal.SIGINT),
    }

    async def program(world: World) -> None:
        await interrupted(lambda: sends[by](world), is_stubborn=is_stubborn)

    outcome = traced(program)
    assert outcome.error is None
    if is_stubborn:
        assert outcome.violation is None
    else:
        assert outcome.violation is not None
        assert "SIGINT cancels the main task" in outcome.violation.detail
    if by in ("kill", "raise_signal"):
        real = interrupted(lambda: sends[by](None), is_stubborn=is_stubborn)
        # A job in the background begins with SIGINT ignored, and asyncio.run would leave it so.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if is_stubborn:
                asyncio.run(real)
            else:
                with pytest.raises(KeyboardInterrupt):
                    asyncio.run(real)
        finally:
            signal.signal(signal.SIGINT, before)


def test_sigint_ends_a_process_after_its_clean_up() -> None:
    """The first one is a cancel; a second does not wait for what that takes."""
    log: list[str] = []

    async def main(name: str) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            log.append(f"{name} cleans up")
            await asyncio.sleep(1)
            log.append(f"{name} is clean")

    async def program(world: World) -> None:
        one, other = (world.host(name).run(main, name) for name in ("a", "b"))
        await asyncio.sleep(1)
        await world.signal(signal.SIGINT, to=one)
        await world.signal(signal.SIGINT, to=other)
        await asyncio.sleep(0.5)
        await world.signal(signal.SIGINT, to=other)
        for process in (one, other):
            end = await process.ended()
            assert (end.how, end.value) == (How.KILLED, signal.SIGINT)
        assert world.now == pytest.approx(2.0, abs=1e-3)

    passes(program)
    assert log == ["a cleans up", "b cleans up", "a is clean"]


def test_handlers_that_read_when_main_returns_are_cancelled_as_on_stock() -> None:
    """What asyncio's own callback then raises is no violation; what a clean-up raises is."""

    async def handles(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readline()

    async def server() -> None:
        listening = await asyncio.start_server(handles, "0.0.0.0", 80)
        await asyncio.sleep(2)
        listening.close()

    async def program(world: World) -> None:
        process = world.host("server").run(server)
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("server", 80)
        assert (await process.ended()).how is How.RETURNED
        assert await reader.read() == b""
        writer.close()

    passes(program)
