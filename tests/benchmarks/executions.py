"""Executions per second, and ratios to asyncio, measured in one run: medians of interleaved rounds.

    python tests/benchmarks/executions.py [--rounds N] [--memory EXECUTIONS] [--rivals] [--quick]

A ratio compares the same program, simulated and on one reused asyncio loop without any latency;
it is the median of the rounds' ratios. What a run leaves to the garbage collector is part of its
time, and asyncio runs without the guards of the simulator. Nothing is asserted about seconds, which
differ between machines and from hour to hour.

--rivals also measures seedloop and detangle, if they are installed: they are not dependencies.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import resource
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message

from registry import StreamRegistry
from server.app import create_app
from server.settings import Settings
from sim import World, explore
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.bench.scenarios.server_level import SERVER_SCENARIOS
from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.simulated import EPOCH_NS, SimOllama
from sim.fake_ollama.steps import Acquire, Body, Drop, End, Hang, Head, Sleep
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded
from sim.kernel.schedule import Bounds
from sim.schedulers import DepartureBounded, NaturalOrder, RandomWalk, Scheduler

Run = Callable[[], object]
# As in an exploration, whose executions have the same ones.
BOUNDS = Bounds()

# ---- 3 × 5 steps on a lock ------------------------------------------------------------------


async def three_by_five(arrive: Callable[[str], Awaitable[None]]) -> None:
    """3 tasks × 5 steps on a lock, after an outside arrival each."""
    lock = asyncio.Lock()

    async def client(name: str) -> None:
        await arrive(name)
        for _ in range(5):
            async with lock:
                await asyncio.sleep(0)

    await asyncio.gather(*(client(name) for name in "abc"))


async def three_by_five_simulated(world: World) -> None:
    await three_by_five(world.outside)


async def three_by_five_on_asyncio() -> None:
    loop = asyncio.get_running_loop()

    async def arrive(name: str) -> None:
        waiter = loop.create_future()
        loop.call_soon(waiter.set_result, None)
        await waiter

    await three_by_five(arrive)


# ---- three streaming calls to a small application -------------------------------------------

app = FastAPI()


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0)
            yield b"part\n"

    return StreamingResponse(parts())


class Call:
    """One request to an ASGI application, as a client that reads everything sees it."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        self.body = b""
        self._request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._over = asyncio.Event()
        self.has_content = asyncio.Event()

    async def made_of(self, app: ASGIApp) -> bytes:
        await app(self.scope, self._receive, self._send)
        return self.body

    async def _receive(self) -> Message:
        if self._request:
            return self._request.pop()
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if b'"content":"' in message.get("body", b""):
                self.has_content.set()
            if not message.get("more_body", False):
                self._over.set()


async def three_streams(world: World | None = None) -> None:
    bodies = await asyncio.gather(*(Call("GET", "/stream", {}).made_of(app) for _ in range(3)))
    assert bodies == [b"part\n" * 5] * 3


# ---- the whole server, two prompts, and the fake --------------------------------------------

INSTANT = replace(profile_named("instant"), chunks=5)
# A virtual moment between the chunks, or they would all land in one poll.
SPACED = replace(INSTANT, chunk_s=0.001)
SETTINGS = Settings(ollama_host="http://ollama:11434", api_keys="key")
_transports: list[httpx.AsyncBaseTransport] = []
server_app = create_app(SETTINGS, async_transport=lambda: _transports[-1], signals=())


async def two_prompts() -> None:
    """Lifespan; a second prompt comes while the first streams; lifespan."""
    # One session: by themselves two conversations have one each.
    headers = {"authorization": "Bearer key", "content-type": "application/json"}
    headers["x-session-id"] = "one"

    def prompt(text: str) -> Call:
        body = {"model": "fake:normal", "messages": [{"role": "user", "content": text}]}
        body["stream"] = True
        return Call("POST", "/v1/chat/completions", headers, json.dumps(body).encode())

    async with server_app.router.lifespan_context(server_app):
        first, second = prompt("first"), prompt("second")
        answering = asyncio.ensure_future(first.made_of(server_app))
        await first.has_content.wait()
        await second.made_of(server_app)
        await answering
    assert b'"superseded"' in first.body
    assert b'"finish_reason":"stop"' in second.body


async def two_prompts_simulated(world: World) -> None:
    _transports[:] = [SimOllama(world.loop, SPACED).transport()]
    await two_prompts()


async def two_prompts_on_asyncio() -> None:
    _transports[:] = [InMemoryTransport(FakeOllama(INSTANT, lambda: EPOCH_NS))]
    await two_prompts()


class InMemoryTransport(httpx.AsyncBaseTransport):
    """The fake's script performed on asyncio alone, each segment in an iteration of its own."""

    def __init__(self, fake: FakeOllama) -> None:
        self._fake = fake

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        steps = self._fake.handle(request.method, request.url.path, body)
        head = await _next_sent(steps)
        assert isinstance(head, Head)
        return httpx.Response(head.status, stream=_Body(steps))


class _Body(httpx.AsyncByteStream):
    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        self._steps = steps

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(step := await _next_sent(self._steps), Body):
            yield step.data

    async def aclose(self) -> None:
        self._steps.close()


async def _next_sent(steps: Generator[Any, None, Any]) -> Head | Body | End | Drop:
    for step in steps:
        match step:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Acquire(waiter):
                granted = asyncio.Event()
                waiter.call_when_granted(granted.set)
                await granted.wait()
            case Hang():
                await asyncio.Event().wait()
            case Head():
                return step
            case _:
                await asyncio.sleep(0)
                return step
    return End()


# ---- hosts ----------------------------------------------------------------------------------


async def sleeps(world: World) -> None:
    for _ in range(5):
        await asyncio.sleep(1)
    await world.outside("somebody comes")


async def three_sleepers(world: World) -> None:
    await asyncio.gather(*(sleeps(world) for _ in range(3)))


async def three_sleepers_on_hosts(world: World) -> None:
    for process in [world.host(name).run(sleeps, world) for name in "abc"]:
        await process.ended()


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


async def asks(host: str) -> None:
    reader, writer = await asyncio.open_connection(host, 80)
    for _ in range(5):
        writer.write(b"hello\n")
        await reader.readline()
    writer.close()


async def serves() -> None:
    await (await asyncio.start_server(echoes, "0.0.0.0", 80)).serve_forever()


async def two_clients(world: World) -> None:
    async with await asyncio.start_server(echoes, "127.0.0.1", 80):
        await asyncio.gather(*(asks("127.0.0.1") for _ in range(2)))


async def two_clients_on_hosts(world: World) -> None:
    world.host("server").run(serves)
    await asyncio.sleep(1)
    for process in [world.host(name).run(asks, "server") for name in "ab"]:
        await process.ended()


def print_hosts(rounds: int, share: float) -> None:
    """The same in one program, and in three processes, each on a host of its own."""
    print(f"\n{'executions/s':<48} {'one':>10} {'3 hosts':>10} {'ratio':>8}")
    pairs = [
        ("three that sleep 5 times", three_sleepers, three_sleepers_on_hosts),
        ("two clients, 5 lines each, of a server", two_clients, two_clients_on_hosts),
    ]
    times = max(1, round(100 * share))
    for name, one, on_hosts in pairs:
        with frozen():
            figures = [
                (per_second(executing(one), times), per_second(executing(on_hosts), times))
                for _ in range(rounds + 1)
            ][1:]
        plain, apart = (statistics.median(column) for column in zip(*figures, strict=True))
        ratio = statistics.median(other / each for each, other in figures)
        print(f"{name:<48} {plain:>10.0f} {apart:>10.0f} {ratio:>6.2f} ×", flush=True)


# ---- measuring ------------------------------------------------------------------------------


def executing(program: Program, scheduler: Scheduler | None = None) -> Run:
    """One execution after the other; in natural order without a scheduler."""

    def run() -> None:
        one = scheduler or NaturalOrder()
        one.next_execution()
        outcome = run_execution(program, one, BOUNDS)
        assert outcome.error is outcome.violation is None, (outcome.error, outcome.violation)

    return run


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection of garbage in the block, as in the guards of an execution."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def frozen() -> Iterator[None]:
    """Collections in the block do not look at what existed before it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def per_second(
    run: Run, times: int, within: Callable[[], AbstractContextManager[None]] = guarded
) -> float:
    with within():
        # Of processor time: neighbours on the machine have less of a say in it.
        begun, done = time.process_time(), 0
        while True:
            for _ in range(times):
                run()
            gc.collect()
            done += times
            # On a virtual machine that clock may stand still for some milliseconds.
            if (lasted_s := time.process_time() - begun) > 0:
                return done / lasted_s


def print_ratios(rounds: int, share: float) -> None:
    """Pairs of the same program; the two of a pair take turns, after a round that warms up."""
    loop = asyncio.new_event_loop()

    def on_asyncio(program: Callable[[], Awaitable[None]]) -> Run:
        return lambda: loop.run_until_complete(program())

    pairs = [
        (
            "3 tasks × 5 steps on a lock, random scheduler",
            executing(three_by_five_simulated, RandomWalk(0)),
            on_asyncio(three_by_five_on_asyncio),
            500,
        ),
        (
            "three streaming ASGI calls",
            executing(three_streams),
            on_asyncio(three_streams),
            200,
        ),
        (
            "the whole server, two prompts, and the fake",
            executing(two_prompts_simulated),
            on_asyncio(two_prompts_on_asyncio),
            50,
        ),
    ]
    print(f"{'executions/s':<48} {'simulated':>10} {'asyncio':>10} {'ratio':>8}")
    for name, simulated, stock, times in pairs:
        times = max(1, round(times * share))
        with frozen():
            figures = [
                (per_second(simulated, times), per_second(stock, times, uncollected))
                for _ in range(rounds + 1)
            ][1:]
        ours, theirs = (statistics.median(column) for column in zip(*figures, strict=True))
        ratio = statistics.median(one / other for one, other in figures)
        print(f"{name:<48} {ours:>10.0f} {theirs:>10.0f} {ratio:>6.2f} ×", flush=True)
    loop.close()


def rivals() -> dict[str, Run | None]:
    """The first program in other simulators, by the way each has of running one; None if absent.

    seedloop keeps asyncio's order, and detangle chooses at random which task goes on.
    """

    def of_seedloop() -> Run:
        run_one = importlib.import_module("seedloop._run")._run_one
        seeds = iter(range(10**9))
        return lambda: run_one(lambda world: three_by_five_on_asyncio(), next(seeds))

    def of_detangle() -> Run:
        execute = importlib.import_module("detangle").execute
        walk = importlib.import_module("detangle").RandomWalk(0)
        runs = iter(range(10**9))

        def run() -> None:
            walk.start(next(runs))
            failure = execute(three_by_five_on_asyncio, strategy=walk).failure
            assert failure is None, failure

        return run

    found: dict[str, Run | None] = {}
    for name, make in {"seedloop": of_seedloop, "detangle": of_detangle}.items():
        try:
            found[name] = make()
        except ImportError:
            found[name] = None
    return found


def print_rivals(rounds: int, share: float) -> None:
    """The first program on one reused asyncio loop, simulated, and in other simulators."""
    loop = asyncio.new_event_loop()
    found = rivals()
    print(f"\n{'3 tasks × 5 steps on a lock':<48} {'executions/s':>12} {'to asyncio':>10}")
    for name in [name for name, run in found.items() if run is None]:
        print(f"{name}: NOT INSTALLED, so it is not measured; install it (not a dependency)")
    runs = {
        "asyncio": (lambda: loop.run_until_complete(three_by_five_on_asyncio()), uncollected),
        "onestream": (executing(three_by_five_simulated, RandomWalk(0)), guarded),
        **{name: (run, uncollected) for name, run in found.items() if run is not None},
    }
    times = max(1, round(500 * share))
    figures: dict[str, list[float]] = {name: [] for name in runs}
    with frozen():
        for _ in range(rounds + 1):
            for name, (run, within) in runs.items():
                figures[name].append(per_second(run, times, within))
    loop.close()
    stock = figures["asyncio"][1:]
    for name, each in figures.items():
        ratio = statistics.median(a / b for a, b in zip(each[1:], stock, strict=True))
        print(f"{name:<48} {statistics.median(each[1:]):>12.0f} {ratio:>8.2f} ×", flush=True)


def print_rates(rounds: int, share: float) -> None:
    """The bench with all its judgements, in natural order and with one departure each."""
    print(f"\n{'executions/s of the bench':<48} {'natural':>10} {'searched':>10}")
    known = {each.name: each for each in (*REGISTRY_SCENARIOS, *SERVER_SCENARIOS)}
    for name in (
        "racing_registers",
        "second_prompt.async",
        "hung_upstream.async",
        "second_prompt.thread",
        "hung_upstream.thread",
    ):
        program = known[name].program_for(StreamRegistry)
        times = max(1, round(50 * share))
        # More of them, or the beginning of an exploration is most of it.
        searched_max = 10 * times
        natural, searched = [], []
        for _ in range(rounds + 1):
            natural.append(per_second(executing(program), times))
            report = explore(program, strategy=DepartureBounded(1), max_executions=searched_max)
            searched.append(report.executions / report.seconds)
        figures = [statistics.median(each[1:]) for each in (natural, searched)]
        print(f"{name:<48} {figures[0]:>10.0f} {figures[1]:>10.0f}", flush=True)


def print_memory(executions: int) -> None:
    """How much the process has grown at each tenth of the executions."""
    print(f"\n{'resident memory, MiB':<48} {'begun':>8} {'1/10':>8} {'1/2':>8} {'end':>8}")
    known = {each.name: each for each in SERVER_SCENARIOS}
    programs = {
        "3 tasks × 5 steps on a lock": three_by_five_simulated,
        "second_prompt.async": known["second_prompt.async"].program_for(StreamRegistry),
        "second_prompt.thread": known["second_prompt.thread"].program_for(StreamRegistry),
    }
    for name, program in programs.items():
        figures = [resident_mib()]
        done = 0
        for until in (executions // 10, executions // 2, executions):
            explore(program, strategy="random", max_executions=until - done, seed=done)
            done = until
            figures.append(resident_mib())
        label = f"{name}, {executions} executions"
        print(f"{label:<48} {' '.join(f'{each:8.1f}' for each in figures)}", flush=True)


def resident_mib() -> float:
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    # The peak, where the present is not told.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, default=10_000, help="executions; 0 leaves it out")
    parser.add_argument("--rivals", action="store_true", help="seedloop and detangle beside")
    parser.add_argument("--quick", action="store_true", help="only shows that it runs")
    options = parser.parse_args(arguments)
    share, rounds, memory = 1.0, options.rounds, options.memory
    if options.quick:
        share, rounds, memory = 0.02, 1, 20
    with silenced():
        print_ratios(rounds, share)
        if options.rivals:
            print_rivals(rounds, share)
        print_hosts(rounds, share)
        with frozen(), guarded():
            print_rates(rounds, share)
        if memory:
            print_memory(memory)


if __name__ == "__main__":
    main()
