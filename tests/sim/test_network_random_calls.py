"""What Linux's sockets do, call by call of a random program, simulated ones do."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from sim import World, run
from tests.sim.random_sockets import PORTS, SETTLES_S, Plan, Run, random_plan

pytestmark = [
    pytest.mark.socket,
    pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's"),
]

PATIENCE_S = (SETTLES_S, 0.002, 0.05, 0.5)
"""How long a real network is waited for, where it seems to do something else than the simulated."""

_ports = itertools.count(12_000)


class Difference(NamedTuple):
    """at: the number of the call."""

    at: int
    on_linux: str
    here: str


def unused_ports() -> tuple[int, ...]:
    """Where nobody is, nor was a minute ago."""
    found = []
    while len(found) < PORTS:
        port = next(_ports)
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                sock.bind(("::", port))
            except OSError:
                continue
            found.append(port)
    return tuple(found)


def on_linux(plan: Plan, settles_s: float) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return list(Run(unused_ports(), folder, settles_s).plays(plan))


def simulated(plan: Plan) -> list[str]:
    """Up to a call that is refused, which is the first that connects a socket to itself."""
    seen: list[str] = []

    def plays() -> None:
        with tempfile.TemporaryDirectory() as folder:
            seen.extend(Run((7000, 7001, 7002), folder, SETTLES_S).plays(plan))

    async def main(world: World) -> None:
        await asyncio.to_thread(plays)

    outcome = run(main)
    assert outcome.violation is None, outcome.violation
    assert outcome.error is None or "to itself" in outcome.error, outcome.error
    return seen


def first_difference(plan: Plan, patience_s: Iterable[float] = PATIENCE_S) -> Difference | None:
    """That is there however long what is sent has to arrive."""
    here, found = simulated(plan), None
    for settles_s in patience_s:
        there = on_linux(plan, settles_s)
        both = zip(there, here, strict=False)
        differing = (Difference(at, *each) for at, each in enumerate(both) if each[0] != each[1])
        found = next(differing, None)
        if found is None:
            return None
    return found


def shortest(plan: Plan, differs: Callable[[Plan], Difference | None]) -> Plan:
    """A part of it that differs still, of which no call can go."""
    at = 0
    while at < len(plan.calls):
        shorter = plan.without(at)
        found = differs(shorter)
        if found is None:
            at += 1
        else:
            plan, at = Plan(shorter.calls[: found.at + 1]), 0
    return plan


FOUND = (
    *(4, 5, 7, 11, 12, 15, 16, 19, 20, 24, 26, 27, 31, 35, 37, 47, 51, 70),
    *(71, 75, 80, 89, 91, 99, 102, 103, 110, 113, 121, 122, 123, 130, 131, 140, 143, 144),
    *(152, 155, 174, 175, 178, 190, 192, 196, 202, 209, 210, 226, 248, 258, 259, 285, 302, 316),
    *(356, 357, 359, 390, 403, 435, 448, 453, 454, 457, 479, 499, 526, 534, 551, 554, 607, 635),
    *(
        640,
        642,
        766,
        793,
        836,
        843,
        864,
        885,
        946,
        999,
        1011,
        1019,
        1055,
        1060,
        1125,
        1185,
        1437,
        1963,
        2861,
        3858,
        5539,
    ),
)
"""Those in which Linux did something else than the simulated kernel once."""


@pytest.mark.parametrize(
    "plans", [FOUND, pytest.param(range(3_000), marks=pytest.mark.soak)], ids=["found", "many"]
)
def test_calls_do_what_they_do_on_linux(plans: Iterable[int]) -> None:
    """Each call returns or raises the same, and leaves each socket ready for the same."""
    for number in plans:
        plan = random_plan(f"sockets {number}")
        if first_difference(plan) is None:
            continue
        few = shortest(plan, first_difference)
        found = first_difference(few)
        assert found is None, (
            f"plan {number}, call {found.at}: on Linux {found.on_linux}, here {found.here}\n{few}"
        )
