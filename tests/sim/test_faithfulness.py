"""Witnesses that the loop is CPython's: what it fixes stays fixed, what is free is explored."""

from __future__ import annotations

import _socket
import _thread
import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from sim import NotSimulated, World, explore

Program = Callable[[World], Awaitable[None]]


# ---- what is fixed ---------------------------------------------------------------------------


def test_call_soon_is_never_permuted() -> None:
    """Under every schedule, callbacks run in the order in which they were given to call_soon."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        given_order: list[str] = []
        ran: list[str] = []

        def soon(name: str, depth: int) -> None:
            given_order.append(name)
            loop.call_soon(run, name, depth)

        def run(name: str, depth: int) -> None:
            ran.append(name)
            if depth:
                soon(f"{name}.1", depth - 1)
                soon(f"{name}.2", depth - 1)

        async def arrives(name: str) -> None:
            await world.outside(name, latest=0.5)
            soon(name, 2)

        await asyncio.gather(*(arrives(name) for name in "ab"), asyncio.sleep(0.2))
        for _ in range(4):
            await asyncio.sleep(0)
        world.check(len(ran) == 14, "all callbacks ran", f"{ran}")
        world.check(ran == given_order, "callbacks run first in, first out", f"{ran}")

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert report.executions > 50


@pytest.mark.parametrize(
    "delays",
    [(1.008, 1.006, 1.004, 1.002, 1.0), (1.004, 1.0, 1.008, 1.002, 1.006)],
    ids=["backwards", "mixed"],
)
def test_timers_fire_by_their_deadline(delays: tuple[float, ...]) -> None:
    """However late the loop is, timers fire in the order of their deadlines."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        for delay in delays:
            loop.call_later(delay, fired.append, delay)
        await world.outside("a", earliest=1.003, latest=1.003)
        await asyncio.sleep(0.1)
        world.check(fired == sorted(delays), "timers fire by deadline", f"{fired}")

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert report.executions > 1


def test_what_the_poll_found_runs_before_the_timers_of_the_same_iteration() -> None:
    """An outside event and a timer of one iteration run in this order, as I/O and timers do."""

    async def program(world: World) -> None:
        loop = world.loop
        iterations = 0
        seen: list[tuple[int, str]] = []

        def count() -> None:
            nonlocal iterations
            iterations += 1

        loop.on_poll = count
        loop.call_later(1.0, lambda: seen.append((iterations, "timer")))
        # Its callbacks stand in the ready queue, as what a selector found does.
        arrival = loop.environment.announce("a", 1.001, 1.001)
        assert arrival.callbacks is not None
        arrival.callbacks.append(
            lambda _: loop.call_soon(lambda: seen.append((iterations, "outside")))
        )
        await asyncio.sleep(1.5)
        (first, one), (second, other) = seen
        if first == second:
            world.reached("both in one iteration")
            world.check((one, other) == ("outside", "timer"), "I/O before timers", f"{seen}")
        else:
            world.reached("one after the other")

    report = explore(program, labels=["both in one iteration", "one after the other"])
    assert report.verdict == "proved", report.text


def test_an_iteration_runs_the_snapshot_of_the_queue() -> None:
    """What a callback adds runs in the next iteration, after what the poll between them found."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        async def arrives() -> None:
            await world.outside("a", latest=0.0)

        loop.call_soon(lambda: (seen.append("1"), loop.call_soon(seen.append, "3")))
        loop.call_soon(seen.append, "2")
        await arrives()
        await asyncio.sleep(0)
        world.check(seen == ["1", "2", "3"], "what is added runs in the next iteration", f"{seen}")

    assert explore(program).verdict == "proved"


def test_equal_delays_armed_in_sequence_fire_in_sequence() -> None:
    """Each reading of the clock is later than the last, so equal delays do not tie."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        times = [loop.time() for _ in range(5)]
        assert times == sorted(set(times))
        fired: list[int] = []
        for number in range(10):
            loop.call_later(1.0, fired.append, number)
        await asyncio.sleep(1.1)
        assert fired == list(range(10))

    assert explore(program).verdict == "proved"


# ---- what is free ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "outcomes"),
    [
        (0.5, {"done"}),
        (0.98, {"done"}),
        (0.999, {"done", "timeout"}),
        # As on any asyncio loop: what lands in the poll in which the deadline is due has its
        # callback run, and then the timer cancels the task before it has had its turn.
        (1.001, {"timeout"}),
        (1.02, {"timeout"}),
    ],
)
def test_a_timeout_meets_an_operation_of_about_its_length(
    seconds: float, outcomes: set[str]
) -> None:
    """An operation that ends within the loop's lateness before a timeout of 1.0 s may time out."""
    seen: set[str] = set()

    async def program(world: World) -> None:
        try:
            async with asyncio.timeout(1.0):
                await world.outside("the operation ends", earliest=seconds, latest=seconds)
        except TimeoutError:
            seen.add("timeout")
        else:
            seen.add("done")

    assert explore(program).verdict == "proved"
    assert seen == outcomes


@pytest.mark.parametrize(
    ("seconds", "orders"),
    [
        (0.5, {"operation, deadline"}),
        (0.999, {"operation, deadline"}),
        (1.001, {"operation, deadline", "deadline, operation"}),
        (1.02, {"deadline, operation"}),
    ],
)
def test_an_operation_lands_before_or_after_a_deadline(seconds: float, orders: set[str]) -> None:
    """What comes within the loop's lateness after a deadline is seen before its timer, or after."""
    seen: set[str] = set()

    async def program(world: World) -> None:
        order: list[str] = []
        loop = world.loop
        loop.call_later(1.0, order.append, "deadline")
        arrival = loop.environment.announce("the operation ends", seconds, seconds)
        assert arrival.callbacks is not None
        arrival.callbacks.append(lambda _: loop.call_soon(order.append, "operation"))
        await asyncio.sleep(1.5)
        seen.add(", ".join(order))

    assert explore(program).verdict == "proved"
    assert seen == orders


# ---- what is not simulated -------------------------------------------------------------------


async def starts_a_thread_by_number() -> None:
    _thread.start_new_thread(print, ())


async def uses_a_process_pool() -> None:
    with ProcessPoolExecutor(1) as executor:
        await asyncio.get_running_loop().run_in_executor(executor, print)


async def connects() -> None:
    await asyncio.open_connection("192.0.2.1", 9)


async def connects_by_name() -> None:
    await asyncio.open_connection("example.org", 9)


async def uses_a_socket() -> None:
    """One of the system's, that is handed in by its number."""
    one, other = _socket.socketpair()
    with socket.socket(fileno=one.detach()) as real, socket.socket(fileno=other.detach()):
        real.setblocking(False)
        await asyncio.get_running_loop().sock_recv(real, 1)


async def looks_up_a_name() -> None:
    await asyncio.get_running_loop().getaddrinfo("example.org", 80)


async def starts_a_process() -> None:
    await asyncio.create_subprocess_exec("true")


REFUSED = [
    starts_a_thread_by_number,
    uses_a_process_pool,
    connects,
    connects_by_name,
    uses_a_socket,
    looks_up_a_name,
    starts_a_process,
]


@pytest.mark.parametrize("swallows", [False, True], ids=["raises", "swallows"])
@pytest.mark.parametrize("act", REFUSED, ids=lambda act: act.__name__)
def test_what_is_not_simulated_is_an_error(
    act: Callable[[], Awaitable[None]], swallows: bool
) -> None:
    """It raises NotSimulated with what to use instead, and no verdict but `error` is given."""

    async def program(world: World) -> None:
        try:
            await act()
        except NotSimulated:
            if not swallows:
                raise

    report = explore(program)
    assert report.verdict == "error", report.text
    assert "is not simulated: " in report.reason
    assert report.counterexample is None
