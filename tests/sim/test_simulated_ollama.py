"""The fake Ollama in virtual time: when a close is heard, in which order answers land, faults."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sim import World, explore, run
from sim.fake_ollama import Profile
from sim.fake_ollama.simulated import SimOllama, SimSocket
from sim.schedulers import DepartureBounded

URL = "http://ollama:11434"
PROFILE = Profile(
    load_s=1.0, slow_load_s=9.0, prompt_eval_s=0.5, chunk_s=0.2, chunks=3, fault_after_chunks=1
)
# The clock moves by a nanosecond at each reading, and not otherwise within an instant.
INSTANT_S = 1e-6

Story = Callable[[World, SimOllama], Awaitable[None]]


def told(story: Story, profile: Profile = PROFILE) -> Callable[[World], Awaitable[None]]:
    async def program(world: World) -> None:
        await story(world, SimOllama(world.loop, profile))

    return program


def played(story: Story, profile: Profile = PROFILE) -> None:
    """One natural execution, in which nothing is violated."""
    outcome = run(told(story, profile))
    assert (outcome.error, outcome.violation) == (None, None)


def body(mode: str, **fields: object) -> bytes:
    model = f"fake:{mode}"
    message = {"role": "user", "content": "hello"}
    return json.dumps({"model": model, "messages": [message], **fields}).encode()


def async_client(ollama: SimOllama, timeout_s: float | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=URL, transport=ollama.transport(), timeout=timeout_s)


async def read_all(ollama: SimOllama, mode: str, timeout_s: float | None = None) -> list[bytes]:
    """The segments of an answer."""
    async with (
        async_client(ollama, timeout_s) as client,
        client.stream("POST", "/api/chat", content=body(mode)) as response,
    ):
        return [segment async for segment in response.aiter_raw()]


class Held:
    """What holds the socket of a worker thread, and shuts it when told to."""

    def __init__(self) -> None:
        self.held: list[SimSocket] = []

    def hold(self, sock: SimSocket, /) -> None:
        self.held.append(sock)

    def shut(self) -> None:
        self.held[-1].shutdown(socket.SHUT_RDWR)


def read_all_blocking(
    ollama: SimOllama, mode: str, timeout_s: float | None = None, held: Held | None = None
) -> list[bytes]:
    """The same in a worker thread."""
    transport = ollama.blocking_transport(held or Held())
    with (
        httpx.Client(base_url=URL, transport=transport, timeout=timeout_s) as client,
        client.stream("POST", "/api/chat", content=body(mode)) as response,
    ):
        return list(response.iter_raw())


async def read_in_thread(ollama: SimOllama, mode: str, timeout_s: float | None = None) -> Any:
    return await asyncio.to_thread(read_all_blocking, ollama, mode, timeout_s)


BOTH = pytest.mark.parametrize("read", [read_all, read_in_thread])


# ---- time -----------------------------------------------------------------------------------


@BOTH
def test_an_answer_takes_the_time_of_its_script(read: Callable[..., Awaitable[Any]]) -> None:
    """Load, evaluation of the prompt and chunks take virtual seconds, as the profile says."""

    async def story(world: World, ollama: SimOllama) -> None:
        segments = await read(ollama, "normal")
        world.check(len(segments) == 4, "three chunks and the last")
        took_s = 1.0 + 0.5 + 2 * 0.2
        world.check(world.now == pytest.approx(took_s, abs=INSTANT_S), "in time", f"{world.now}")

    played(story)


def test_one_slot_serves_one_after_the_other() -> None:
    """With OLLAMA_NUM_PARALLEL=1 the second answer begins when the first is over."""

    async def story(world: World, ollama: SimOllama) -> None:
        await asyncio.gather(*(read_all(ollama, "normal") for _ in range(2)))
        first, second = ollama.fake.calls
        world.check(second.slot_ns >= first.ended_ns > 0, "one after the other")

    played(story)
    with pytest.raises(AssertionError):
        played(story, replace(PROFILE, num_parallel=2))


# ---- a client that closes -------------------------------------------------------------------


async def leave_by_closing(ollama: SimOllama) -> None:
    async with async_client(ollama) as client:
        request = client.build_request("POST", "/api/chat", content=body("hang-midstream"))
        response = await client.send(request, stream=True)
        await asyncio.sleep(3.5)
        await response.aclose()


async def leave_by_cancel(ollama: SimOllama) -> None:
    reading = asyncio.ensure_future(read_all(ollama, "hang-midstream"))
    await asyncio.sleep(5)
    reading.cancel()
    await asyncio.wait({reading})


async def leave_while_it_loads(ollama: SimOllama) -> None:
    reading = asyncio.ensure_future(read_all(ollama, "slow-load"))
    await asyncio.sleep(5)
    reading.cancel()
    await asyncio.wait({reading})


async def leave_before_the_headers(ollama: SimOllama) -> None:
    reading = asyncio.ensure_future(read_all(ollama, "hang-before-headers"))
    await asyncio.sleep(5)
    reading.cancel()
    await asyncio.wait({reading})


async def leave_by_shutdown(ollama: SimOllama) -> None:
    held = Held()
    reading = asyncio.ensure_future(
        asyncio.to_thread(read_all_blocking, ollama, "hang-midstream", None, held)
    )
    await asyncio.sleep(5)
    assert not reading.done()
    held.shut()


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_closing,
        leave_by_cancel,
        leave_while_it_loads,
        leave_before_the_headers,
        leave_by_shutdown,
    ],
)
def test_a_close_is_heard_in_the_same_instant(leave: Callable[..., Awaitable[None]]) -> None:
    """Ollama ends the call and frees its slot before the clock moves."""

    async def story(world: World, ollama: SimOllama) -> None:
        await leave(ollama)
        (call,) = ollama.fake.calls
        world.check(world.now == pytest.approx(5, abs=INSTANT_S), "the clock stands")
        world.check(call.ended == "disconnected", "the call is over", f"{call}")
        world.check(ollama.age_s(call) == pytest.approx(5, abs=INSTANT_S), "since now")
        world.check(not ollama.fake.active_calls, "none is active")
        world.check(not ollama.fake.slots_taken(call.model), "the slot is free")
        world.check(all(each.is_shut for each in ollama.connections), "nothing stays open")

    played(story)


def test_a_close_may_take_longer_than_its_hearing() -> None:
    """With `close_s` Ollama hears at once; our end is let go of later, or at a second cancel."""

    async def story(world: World, ollama: SimOllama) -> None:
        ollama.close_s = 0.5
        for cancels, over_at in ((1, 5.5), (2, 10.9)):
            reading = asyncio.ensure_future(read_all(ollama, "hang-midstream"))
            await asyncio.sleep(5)
            for _ in range(cancels):
                reading.cancel()
                await asyncio.sleep(0.2)
            connection = ollama.connections[-1]
            world.check(not ollama.fake.active_calls, "none is active")
            world.check(connection.is_shut and connection.is_played, "Ollama has heard")
            world.check(connection.is_closed == (cancels == 2), "it is closed later, or cut short")
            await asyncio.wait({reading})
            world.check(connection.is_over, "both ends are done with it")
            world.check(world.now == pytest.approx(over_at, abs=INSTANT_S), "in time")

    played(story)


def test_a_deaf_script_hears_of_the_close_later() -> None:
    """ollama#11889: a close during the evaluation of the prompt is noticed after it."""

    async def story(world: World, ollama: SimOllama) -> None:
        reading = asyncio.ensure_future(read_all(ollama, "late-notice"))
        await asyncio.sleep(1.25)
        reading.cancel()
        await asyncio.wait({reading})
        world.check(ollama.fake.active_calls, "still evaluating")
        await asyncio.sleep(0.5)
        world.check(not ollama.fake.active_calls, "noticed")
        world.check(ollama.fake.calls[0].ended_ns >= 1.5e9, "not before the evaluation was over")

    played(story, replace(PROFILE, late_s=0.5))


def test_nothing_lands_after_the_close() -> None:
    """What Ollama was about to send when the client left arrives nowhere, in any schedule."""

    async def story(world: World, ollama: SimOllama) -> None:
        reading = asyncio.ensure_future(read_all(ollama, "normal"))
        await world.outside("the client leaves", latest=3.0)
        if reading.done():
            world.reached("the answer was whole")
            return
        reading.cancel()
        await asyncio.wait({reading})
        landed = [len(each._inbox) for each in ollama.connections]
        await asyncio.sleep(5)
        world.check(
            landed == [len(each._inbox) for each in ollama.connections], "nothing lands any more"
        )
        world.check(not world.environment.pending, "nothing is on its way")
        world.reached("it was left")

    report = explore(
        told(story),
        strategy=DepartureBounded(2),
        max_executions=5000,
        labels=("the answer was whole", "it was left"),
    )
    assert report.verdict == "proved", report.text


# ---- a thread that is woken -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hang-midstream", "hang-before-headers"])
def test_a_shutdown_wakes_a_blocked_read(mode: str) -> None:
    """The thread leaves its read in the same instant, with the error of a broken connection."""

    async def story(world: World, ollama: SimOllama) -> None:
        held = Held()
        reading = asyncio.ensure_future(
            asyncio.to_thread(read_all_blocking, ollama, mode, None, held)
        )
        await asyncio.sleep(5)
        world.check(not reading.done(), "it hangs")
        held.shut()
        with pytest.raises(httpx.RemoteProtocolError):
            await reading
        world.check(world.now == pytest.approx(5, abs=INSTANT_S), "at once", f"{world.now}")

    played(story)


def test_a_shutdown_before_the_connect_finds_nothing_to_shut() -> None:
    """As with a real socket: it raises, and the thread connects all the same, and tells again."""

    async def story(world: World, ollama: SimOllama) -> None:
        ollama.lookup_s = [3.0]
        held = Held()
        reading = asyncio.ensure_future(
            asyncio.to_thread(read_all_blocking, ollama, "normal", None, held)
        )
        await asyncio.sleep(1)
        world.check(len(held.held) == 1, "held before the look-up")
        with pytest.raises(OSError, match="not connected"):
            held.shut()
        await reading
        world.check(len(held.held) == 2, "held again once it is connected")
        (call,) = ollama.fake.calls
        world.check(call.started_ns % 1e9 < 1000, "the look-up took its time")
        world.check(world.now == pytest.approx(3 + 1.9, abs=INSTANT_S), "in full", f"{world.now}")

    played(story)


# ---- limits of the client -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("mode", ["hang-midstream", "hang-before-headers"])
def test_a_read_that_takes_too_long_is_a_read_timeout(
    read: Callable[..., Awaitable[Any]], mode: str
) -> None:
    """The limit counts from the last segment, and ends the connection with it."""

    async def story(world: World, ollama: SimOllama) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await read(ollama, mode, 2.0)
        last_heard_s = 1.5 if mode == "hang-midstream" else 0.0
        expected = pytest.approx(last_heard_s + 2.0, abs=0.001)
        world.check(world.now == expected, "after two silent seconds", f"{world.now}")
        world.check(not ollama.fake.active_calls, "Ollama has heard of it")

    played(story)


@BOTH
def test_a_slow_answer_is_no_timeout(read: Callable[..., Awaitable[Any]]) -> None:
    """An answer longer than the limit is read to its end, if no silence in it is."""

    async def story(world: World, ollama: SimOllama) -> None:
        segments = await read(ollama, "normal", 1.6)
        world.check(len(segments) == 4 and world.now > 1.6, "all of it")

    played(story)


# ---- the order in which answers land --------------------------------------------------------


@BOTH
def test_two_answers_at_the_same_instant_land_in_either_order(
    read: Callable[..., Awaitable[Any]],
) -> None:
    """One order is the natural one, the other a departure."""
    quick = Profile(load_s=0.0, prompt_eval_s=0.5, chunk_s=0.2, chunks=1)

    async def story(world: World, ollama: SimOllama) -> None:
        order: list[str] = []

        async def one(mode: str) -> None:
            await read(ollama, mode)
            order.append(mode)

        await asyncio.gather(one("normal"), one("zeros"))
        world.reached(" before ".join(order))

    labels = ("normal before zeros", "zeros before normal")
    program = told(story, quick)
    natural = explore(program, strategy="natural", max_executions=1)
    assert len(natural.labels) == 1
    report = explore(program, strategy="random", max_executions=200)
    assert report.counterexample is None
    assert report.labels == set(labels)


def test_an_answer_meets_a_deadline_in_either_order() -> None:
    """A chunk due within the loop's lateness of a time limit comes before it, or after."""

    async def story(world: World, ollama: SimOllama) -> None:
        # The last chunk is sent after 1.9 s.
        try:
            async with asyncio.timeout(1.905):
                await read_all(ollama, "normal")
            world.reached("in time")
        except TimeoutError:
            world.reached("too late")

    def explored(labels: tuple[str, ...], **bounds: float) -> str:
        strategy = DepartureBounded(1)
        return explore(
            told(story), strategy=strategy, max_executions=500, labels=labels, **bounds
        ).verdict

    assert explored(("in time", "too late")) == "proved"
    assert explored(("in time", "too late"), lateness_s=0.001) == "inconclusive"


# ---- faults ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("mode", "error"),
    [("crash", httpx.RemoteProtocolError), ("cut", None), ("error-midstream", None)],
)
def test_a_fault_looks_as_it_does_on_a_real_connection(
    read: Callable[..., Awaitable[Any]], mode: str, error: type[Exception] | None
) -> None:
    """A crash breaks the connection; a cut answer and an error line end properly."""

    async def story(world: World, ollama: SimOllama) -> None:
        if error is not None:
            with pytest.raises(error):
                await read(ollama, mode)
        else:
            segments = await read(ollama, mode)
            world.check(b'"done":true' not in b"".join(segments), "it is not whole")
        world.check(not ollama.fake.slots_taken(f"fake:{mode}"), "the slot is free")

    played(story)


@BOTH
def test_an_ollama_that_is_down_refuses_the_connection(
    read: Callable[..., Awaitable[Any]],
) -> None:
    """ConnectError, at once; once it is up again, the next call is served."""

    async def story(world: World, ollama: SimOllama) -> None:
        ollama.is_down = True
        with pytest.raises(httpx.ConnectError):
            await read(ollama, "normal")
        world.check(not ollama.connections and world.now < INSTANT_S, "at once")
        ollama.is_down = False
        world.check(len(await read(ollama, "normal")) == 4, "it is up again")

    played(story)


def test_each_execution_has_a_fake_of_its_own() -> None:
    """What one execution leaves behind, the next one doesn't find: calls count from one."""

    async def story(world: World, ollama: SimOllama) -> None:
        world.check(not ollama.fake.calls, "no call was made yet")
        hanging = asyncio.ensure_future(read_all(ollama, "hang-midstream"))
        await asyncio.sleep(2)
        world.check(not hanging.done(), "it hangs")

    report = explore(told(story), strategy="random", max_executions=20)
    assert report.counterexample is None
    assert report.executions == 20
