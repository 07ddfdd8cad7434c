"""Runs a plan: a SimPy process announces each action at its time, as an outside event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import simpy

from sim.bench.simulation.plan import Action, Plan
from sim.kernel.world import World


async def play(world: World, plan: Plan, act: Callable[[Action], None]) -> None:
    """Calls `act` with each action, when a scheduler lets it land; returns after the last."""
    if not plan.actions:
        return
    loop, environment = world.loop, world.environment
    over: asyncio.Future[None] = loop.create_future()
    left = len(plan.actions)

    def land(action: Action) -> None:
        nonlocal left
        left -= 1
        if action.kind != "leave":
            # The bench records who leaves, if the request is not over.
            world.record(action.words, actor="outside")
        act(action)
        if left == 0:
            over.set_result(None)

    def announce(action: Action) -> None:
        def landed(_: object) -> None:
            # As with a socket: the poll puts a callback into the ready queue.
            loop.call_soon(land, action)

        arrival = environment.announce(action.words, 0.0, action.window_s)
        assert arrival.callbacks is not None
        arrival.callbacks.append(landed)

    def script() -> Generator[simpy.Event, Any, None]:
        for action in plan.actions:
            if action.at > environment.now:
                yield environment.timeout(action.at - environment.now)
            announce(action)

    environment.process(script())
    await over
