"""A request that is retried after its answer was lost, and takes effect twice.

A till asks a bank to withdraw. The bank writes the new balance, and crashes before it answers. To
the till that looks like a bank that has done nothing: it asks again once the bank is there again.

Fixed, the till gives its request a number and keeps it for the retry, and the bank writes the
numbers that it has seen in the same file as the balance, at once: an *idempotency key*. (At once is
to write another file and to rename it: a crash in the middle of a write leaves half a file.)
"""

from __future__ import annotations

from sim.examples.lines import ask, serve
from sim.kernel.execution import Program
from sim.kernel.hosts.disk import Disk
from sim.kernel.world import World

BANK = ("bank", 1000)
RESTART_S = 1.0


class Bank:
    """Its file: the balance, and the numbers of the requests that have taken effect."""

    def __init__(self, disk: Disk, *, knows_requests: bool) -> None:
        self._disk = disk
        self._knows_requests = knows_requests
        if "account" not in disk:
            self._save(["100"])

    def answer(self, request: list[str]) -> str:
        amount, number = int(request[1]), request[2]
        balance, *seen = self._disk.read("account").decode().split()
        if not (self._knows_requests and number in seen):
            self._save([str(int(balance) - amount), *seen, number])
        return "withdrawn"

    def _save(self, words: list[str]) -> None:
        """At once: a crash in the middle leaves what was there."""
        self._disk.write("account.new", " ".join(words).encode())
        self._disk.rename("account.new", "account")


async def bank(world: World, knows_requests: bool) -> None:
    disk = world.host("bank").disk
    await serve(BANK[1], Bank(disk, knows_requests=knows_requests).answer)


async def till(world: World) -> None:
    while True:
        try:
            await ask(*BANK, "withdraw 10 request-1")
        except ConnectionError:
            world.record("has no answer, and asks again")
            world.reached("an answer is lost")
        else:
            return


def lost_answer(*, knows_requests: bool) -> Program:
    async def program(world: World) -> None:
        host = world.host("bank")
        host.run(bank, world, knows_requests).may_crash(restart_s=RESTART_S)
        await world.host("till").run(till, world).ended()
        balance = int(host.disk.read("account").split()[0])
        world.check(balance == 90, "a withdrawal takes effect once", f"the balance is {balance}")

    return program


LABELS = ("an answer is lost",)

broken = lost_answer(knows_requests=False)
fixed = lost_answer(knows_requests=True)
