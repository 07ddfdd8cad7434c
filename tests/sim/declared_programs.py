"""Programs whose actors declare what they share: those with known counts, and random ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from registry import StreamRegistry
from registry.protocol import Effect, Operation, Register, StreamProtocol
from sim import World
from sim.kernel.execution import Program


def readers(count: int) -> Program:
    """One writer of x and `count` readers of it: 2ⁿ classes."""

    async def program(world: World) -> None:
        async def reader(number: int) -> None:
            await world.outside(f"reader {number}")
            world.shared("x").read()

        async def writer() -> None:
            await world.outside("writer")
            world.shared("x").write()

        await asyncio.gather(writer(), *(reader(number) for number in range(count)))

    return program


def lastzero(count: int, *, step_by_step: bool) -> Program:
    """Abdulla et al. (POPL 2014): (n + 3)·2ⁿ⁻² classes.

    One looks for the last zero in a[0..n] from the end; n others make a[j] of a[j - 1].
    """

    async def program(world: World) -> None:
        a = [0] * (count + 1)

        async def look() -> None:
            await world.outside("look")
            for index in reversed(range(count + 1)):
                world.shared(f"a{index}").read()
                if a[index] == 0:
                    break
                if step_by_step:
                    await world.outside(f"look at {index - 1}")

        async def raise_one(index: int) -> None:
            await world.outside(f"raise {index}")
            world.shared(f"a{index - 1}").read()
            value = a[index - 1] + 1
            world.shared(f"a{index}").write()
            a[index] = value

        await asyncio.gather(look(), *(raise_one(index) for index in range(1, count + 1)))

    return program


def three_by_three(shares: Callable[[int], bool]) -> Program:
    """Three tasks of three steps; `shares(step)` says which of their steps write x."""

    async def program(world: World) -> None:
        async def task(name: str) -> None:
            for step in range(3):
                await world.outside(f"{name}{step}")
                if shares(step):
                    world.shared("x").write()

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(task(name))

    return program


class DeclaredProtocol(StreamProtocol):
    """The production protocol, which declares that an operation uses only its own session."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._session_of: dict[str, str | None] = {}

    def apply(self, operation: Operation, now: float) -> tuple[Effect, ...]:
        if isinstance(operation, Register):
            self._session_of[operation.trace_id] = operation.session_id
        trace_id = getattr(operation, "trace_id", "")
        self._world.shared(f"session {self._session_of.get(trace_id)}").write()
        return super().apply(operation, now)


def prompts_of(sessions: Sequence[str]) -> Program:
    """A prompt for each session named, on the production registry; none streams for long."""

    async def program(world: World) -> None:
        registry = StreamRegistry(protocol=DeclaredProtocol(world))

        async def prompt(number: int, session: str) -> None:
            await world.outside(f"prompt {number}")
            async with registry.stream(session, trace_id=f"t{number}") as stream:
                await stream.emit(send, "a chunk")

        async def send(chunk: str) -> None:
            world.reached(chunk)

        async with asyncio.TaskGroup() as group:
            for number, session in enumerate(sessions):
                group.create_task(prompt(number, session))

    return program


class RandomProgram:
    """Two or three tasks that use variables, locks, events, queues and each other, by seed.

    What each has read is its label, so that two searches can be compared by what they reached.
    """

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        self.waits = random.random() < 0.3
        self.scripts = [_script(random) for _ in range(random.choice((2, 2, 3)))]

    async def __call__(self, world: World) -> None:
        run = _Run(world, self.scripts)
        tasks = run.start()
        if self.waits:
            await asyncio.wait(tasks)
        else:
            await asyncio.gather(*tasks, return_exceptions=True)
        world.reached(f"{sorted(run.memory.items())} {run.seen}")


_STEPS = (
    *("write", "read", "turn", "lock", "set", "is set", "put", "get", "cancel", "add"),
    *("outside", "outside", "outside"),
)
Script = list[tuple[str, str]]


def _script(random: Random) -> Script:
    steps = [(random.choice(_STEPS), random.choice("xy")) for _ in range(random.randint(1, 4))]
    outsides = [step for step in steps if step[0] == "outside"]
    for step in outsides[1:]:
        steps.remove(step)
    return [("outside", "x"), *steps]


class _Run:
    def __init__(self, world: World, scripts: list[Script]) -> None:
        self.world = world
        self.scripts = scripts
        self.memory = {"x": 0, "y": 0}
        self.seen: list[list[Any]] = [[] for _ in scripts]
        self.locks = {name: asyncio.Lock() for name in "xy"}
        self.events = {name: asyncio.Event() for name in "xy"}
        self.queues: dict[str, asyncio.Queue[int]] = {name: asyncio.Queue() for name in "xy"}
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self._task(n)) for n in range(len(self.scripts))]
        return self.tasks

    async def _task(self, number: int) -> None:
        try:
            for serial, (step, name) in enumerate(self.scripts[number]):
                if step == "outside":
                    await self.world.outside(f"{number}.{serial}")
                else:
                    await self._step(step, name, number)
        except asyncio.CancelledError:
            self.seen[number].append("cancelled")
            raise

    async def _step(self, step: str, name: str, number: int) -> None:  # noqa: C901 - flat cases
        memory, seen, shared = self.memory, self.seen[number], self.world.shared(name)
        match step:
            case "write":
                shared.write()
                memory[name] = memory[name] * 3 + number + 1
            case "read":
                shared.read()
                seen.append(memory[name])
            case "turn":
                await asyncio.sleep(0)
            case "add":
                shared.read()
                value = memory[name] + 10
                await asyncio.sleep(0)
                shared.write()
                memory[name] = value
            case "lock":
                async with self.locks[name]:
                    shared.write()
                    memory[name] = memory[name] * 2 + number
                    await asyncio.sleep(0)
            case "set":
                self.events[name].set()
            case "is set":
                seen.append(self.events[name].is_set())
            case "put":
                self.queues[name].put_nowait(number)
            case "get":
                queue = self.queues[name]
                seen.append(None if queue.empty() else queue.get_nowait())
            case "cancel":
                seen.append(self.tasks[(number + 1) % len(self.tasks)].cancel())
