"""A consumer of a queue that crashes between its work and the acknowledgement.

A queue gives a message again until it is acknowledged. The consumer ships what the message orders,
and crashes before it says so; started anew it gets the message again, and ships again. To
acknowledge first is no way out: then a crash in between loses the order.

Fixed, the consumer writes the message's number together with its work, in one file and at once, and
passes over what it has done.
"""

from __future__ import annotations

from enum import Enum, auto

from sim.examples.lines import ask, serve
from sim.kernel.execution import Program
from sim.kernel.hosts.disk import Disk
from sim.kernel.world import World

QUEUE = ("queue", 1000)
MESSAGES = ("order-1",)
RESTART_S = 1.0


class Order(Enum):
    SHIPS_FIRST = auto()
    ACKNOWLEDGES_FIRST = auto()
    ONCE = auto()


class Queue:
    """Gives the first message that is not acknowledged."""

    def __init__(self) -> None:
        self.left = list(MESSAGES)

    def answer(self, request: list[str]) -> str:
        if request[0] == "ack" and request[1] in self.left:
            self.left.remove(request[1])
        return self.left[0] if self.left else "empty"


async def consumer(world: World, order: Order) -> None:
    """Takes one message after the other, until there is none."""
    ships = Shipping(world, is_idempotent=order is Order.ONCE)
    while (message := await ask(*QUEUE, "get")) != "empty":
        if order is Order.ACKNOWLEDGES_FIRST:
            await ask(*QUEUE, f"ack {message}")
            ships.ship(message)
        else:
            ships.ship(message)
            await ask(*QUEUE, f"ack {message}")


class Shipping:
    """Its file: what was shipped, with the numbers of the messages."""

    def __init__(self, world: World, *, is_idempotent: bool) -> None:
        self._world = world
        self._disk = world.host("consumer").disk
        self._is_idempotent = is_idempotent

    def ship(self, message: str) -> None:
        done = shipped(self._disk)
        if self._is_idempotent and message in done:
            self._world.reached("a message comes again")
            return
        self._world.record(f"ships {message}")
        self._disk.write("shipped.new", " ".join([*done, message]).encode())
        self._disk.rename("shipped.new", "shipped")


def shipped(disk: Disk) -> list[str]:
    return disk.read("shipped").decode().split() if "shipped" in disk else []


def late_acknowledgement(order: Order) -> Program:
    async def program(world: World) -> None:
        world.host("queue").run(serve, QUEUE[1], Queue().answer)
        host = world.host("consumer")
        process = host.run(consumer, world, order)
        process.may_crash(restart_s=RESTART_S)
        await process.returned()
        done = shipped(host.disk)
        world.check(set(done) == {*MESSAGES}, "every order is shipped", f"{done}")
        world.check(len(done) == len(MESSAGES), "no order is shipped twice", f"{done}")

    return program


LABELS = ("a message comes again",)

broken = late_acknowledgement(Order.SHIPS_FIRST)
acknowledged_first = late_acknowledgement(Order.ACKNOWLEDGES_FIRST)
fixed = late_acknowledgement(Order.ONCE)
