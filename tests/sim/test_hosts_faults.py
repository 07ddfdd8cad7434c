"""Faults that the scheduler takes or not: crashes, pauses, partitions; and their states."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sim import DepartureBounded, Fault, World, explore
from sim.exploration.verdict import Verdict
from sim.kernel.hosts.run import How
from sim.schedulers import StateMatching
from tests.sim.host_programs import Program, passes

# ---- faults ------------------------------------------------------------------------------------


def transfers(synced_together: bool) -> Program:
    """Two accounts on a disk; a crash between two writes loses the money."""

    async def bank(world: World) -> None:
        disk = world.host("bank").disk
        if "a" in disk:
            return
        await asyncio.sleep(1)
        if synced_together:
            disk.write("both", b"60 40")
            disk.rename("both", "a")
        else:
            disk.write("a", b"60")
            disk.write("b", b"40")

    async def program(world: World) -> None:
        host = world.host("bank")
        process = host.run(bank, world)
        process.may_crash(restart_s=1.0)
        await asyncio.sleep(5)
        total = sum(int(part) for name in host.disk for part in host.disk.read(name).split())
        world.check(total in (0, 100), "no money is lost", f"{total}")

    return program


def test_a_crash_between_two_writes_is_found_and_shown() -> None:
    """A fault is a departure: the counterexample has that one, and nothing else."""
    report = explore(transfers(synced_together=False))
    assert report.verdict is Verdict.REFUTED
    assert report.counterexample is not None
    assert report.counterexample.property == "no money is lost"
    text = report.counterexample.text
    assert "1. at 1.000 s: bank crashes before it writes b" in text
    assert "≠ crashes before it writes b\n" in text
    assert "departures: 1, at 1 of " in text


def test_one_write_is_proved_under_every_crash() -> None:
    """With one fault; the verdict names the budget that limited it."""
    report = explore(transfers(synced_together=True))
    assert report.verdict is Verdict.PROVED, report.reason
    assert "faults_max=1" in report.bounds_hit


def test_a_cancel_is_offered_at_each_step_of_a_process() -> None:
    """`offer_cancels` in the program holds for its processes, those to come as well."""

    async def main() -> None:
        items = [1]
        item = items.pop()
        await asyncio.sleep(1)
        items.append(item)

    async def program(world: World) -> None:
        world.offer_cancels()
        await world.host("a").run(main).ended()

    report = explore(program, strategy="cancel everywhere")
    assert "main" not in report.reason
    assert report.executions > 2


def test_a_budget_of_faults_is_the_programs() -> None:
    """No more happen than it declares, in any schedule."""
    counts = set()

    async def main() -> None:
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        world.faults.faults_max = 2
        processes = []
        for name in ("a", "b", "c"):
            processes.append(world.host(name).run(main))
            processes[-1].may_crash()
            await processes[-1].ended()
        ends = [await process.ended() for process in processes]
        counts.add(sum(end.how is How.CRASHED for end in ends))

    report = explore(program)
    assert report.verdict is Verdict.PROVED, report.reason
    assert counts == {0, 1, 2}


def test_network_and_hosts_have_one_budget_of_faults() -> None:
    """With one fault a connection is refused or the client crashes, and never both."""
    seen = set()

    async def accepts() -> None:
        await (await asyncio.start_server(lambda _, to: to.close(), "0.0.0.0", 80)).serve_forever()

    async def connects(world: World, faults: set[str]) -> None:
        try:
            _, writer = await asyncio.open_connection("server", 80)
            writer.close()
        except ConnectionRefusedError:
            faults.add("refused")
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        world.network.may_fail(Fault.REFUSED)
        world.network.at_once = lambda receiver: receiver.port != 80
        faults: set[str] = set()
        world.host("server").run(accepts)
        await asyncio.sleep(1)
        client = world.host("client").run(connects, world, faults)
        client.may_crash()
        if (await client.ended()).how is How.CRASHED:
            faults.add("crashed")
        seen.add(tuple(sorted(faults)))

    report = explore(program, strategy=DepartureBounded(2))
    assert report.counterexample is None
    assert seen == {(), ("refused",), ("crashed",)}
    assert "faults_max=1" in report.bounds_hit


def test_a_partition_is_a_fault_of_the_budget_and_ends() -> None:
    """Wherever it begins, what was sent arrives once it is over."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def server() -> None:
        await (await asyncio.start_server(answers, "0.0.0.0", 80)).serve_forever()

    async def client(world: World) -> None:
        begun = world.now
        reader, writer = await asyncio.open_connection("server", 80)
        for number in range(2):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
        writer.close()
        world.reached(f"after {world.now - begun:.0f} s")

    async def program(world: World) -> None:
        world.host("server").run(server)
        far = world.host("client")
        world.network.may_part("server", "client", for_s=5.0)
        await asyncio.sleep(1)
        await far.run(client, world).ended()

    report = explore(program, strategy=DepartureBounded(1), labels=["after 0 s", "after 5 s"])
    assert report.verdict is Verdict.PROVED, report.reason
    assert report.labels == {"after 0 s", "after 5 s"}


def test_what_a_fault_ends_is_its_own() -> None:
    """A pause or a freeze that the program made goes on when that of a fault is over."""

    async def main(log: list[str]) -> None:
        await asyncio.sleep(1)
        log.append("goes on")

    async def program(world: World) -> None:
        log: list[str] = []
        host = world.host("a")
        process = host.run(main, log)
        process.may_pause(for_s=2.0)
        host.may_freeze(for_s=2.0)
        await asyncio.sleep(0.5)
        world.choose("who", [process.pause, host.freeze])()
        if world.faults.taken:
            world.reached("a fault, and the program")
        await asyncio.sleep(5)
        world.check(not log, "the program's own pause lasts")
        process.resume()
        host.thaw()
        await process.ended()

    report = explore(program, labels=["a fault, and the program"])
    assert report.verdict is Verdict.PROVED, report.text


def test_a_frozen_host_that_crashes_starts_anew() -> None:
    """Its power is gone, and what was frozen with it; its clock goes on."""

    async def main(log: list[str]) -> None:
        await asyncio.sleep(1)
        log.append("ends")

    async def program(world: World) -> None:
        log: list[str] = []
        host = world.host("a")
        process = host.run(main, log)
        host.freeze()
        host.crash()
        host.restart()
        await process.returned()
        assert log == ["ends"]

    passes(program)


# ---- states ------------------------------------------------------------------------------------


def crashing() -> Program:
    async def main(world: World, number: int) -> None:
        disk = world.host(f"h{number}").disk
        disk.append("starts", b"x")
        await asyncio.sleep(number)
        if len(disk.read("starts")) > 1:
            world.reached(f"{number} started twice")
        await world.outside(f"letter {number}", latest=1.0)
        world.reached(f"{number} ends at {world.now:.1f}")

    async def program(world: World) -> None:
        processes = [world.host(f"h{number}").run(main, world, number) for number in (1, 2)]
        processes[0].may_crash(restart_s=1.0)
        processes[1].may_pause(for_s=1.5)
        for process in processes:
            end = await process.ended()
            world.reached(f"{process.name} {end.how.value}")

    return program


def frozen() -> Program:
    async def main(world: World) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        await asyncio.sleep(1)
        shown_s = loop.time() - world.loop.bounds.clock_s
        world.reached(f"after {world.now:.1f} s it shows {shown_s:.1f}")

    async def program(world: World) -> None:
        world.faults.faults_max = 2
        host = world.host("a", clock_rate=2.0)
        process = host.run(main, world)
        host.may_freeze(for_s=3.0)
        process.may_pause(for_s=0.25)
        await process.ended()

    return program


@pytest.mark.parametrize(
    "make",
    [pytest.param(crashing, marks=pytest.mark.thorough), frozen],
    ids=lambda make: make.__name__,
)
def test_states_with_processes_reach_what_every_schedule_reaches(make: Any) -> None:
    """What tells two states apart is read: who stands where, clocks, disks, the rest of faults."""
    program = make()
    every = explore(program, strategy="depth-first", budget_s=600)
    matched = explore(program, strategy=StateMatching(with_labels=True), budget_s=600)
    assert every.verdict is matched.verdict is Verdict.PROVED, (every.reason, matched.reason)
    assert every.labels == matched.labels
    assert len(every.labels) > 3
    assert matched.executions < every.executions


def test_a_process_in_the_middle_of_a_callback_makes_the_state_unique() -> None:
    """What is on its stack is not read, so nothing is taken to be the same."""

    async def main(world: World, slow: float) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        time.sleep(slow)  # noqa: ASYNC251
        world.reached(f"slept {loop.time() - started:.0f}")

    async def other(world: World) -> None:
        await world.outside("a letter", latest=1.0)

    async def program(world: World) -> None:
        slow = world.choose("slow", [1.0, 2.0])
        first = world.host("a").run(main, world, slow)
        world.host("b").run(other, world)
        await first.ended()

    scheduler = StateMatching(with_labels=True)
    report = explore(program, strategy=scheduler)
    assert report.verdict is Verdict.PROVED, report.reason
    assert report.labels == {"slept 1", "slept 2"}
    assert "a process in the middle of a callback" in scheduler.opaque
