"""Disks of hosts: what is on them after a crash, or when the power has failed."""

from __future__ import annotations

import asyncio

import pytest

from sim import DepartureBounded, World, explore
from sim.exploration.verdict import Verdict
from tests.sim.host_programs import Program


def test_what_was_not_synced_may_be_lost_when_the_power_fails() -> None:
    """A departure for each file; what was synced is there in every schedule."""

    async def main(world: World) -> None:
        disk = world.host("a").disk
        disk.write("ledger", b"1")
        disk.sync()
        disk.write("ledger", b"2")
        disk.write("draft", b"x")
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        host.run(main, world)
        await asyncio.sleep(1)
        host.crash()
        draft = host.disk.read("draft") if "draft" in host.disk else None
        world.reached(f"{host.disk.read('ledger')} {draft}")

    ledgers, drafts = (b"1", b"", b"2"), (None, b"", b"x")
    labels = [f"{ledger!r} {draft!r}" for ledger in ledgers for draft in drafts]
    report = explore(program, labels=labels)
    assert report.verdict is Verdict.PROVED, report.reason
    assert report.labels == set(labels)


def saves(*calls: str) -> Program:
    """A file that has content is replaced by these calls of its disk, and then the power fails."""

    async def main(world: World) -> None:
        disk = world.host("a").disk
        disk.write("file", b"old")
        disk.sync()
        for call in calls:
            eval(f"disk.{call}", {"disk": disk})
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        host.run(main, world)
        await asyncio.sleep(1)
        host.crash()
        for name in host.disk:
            world.reached(f"{name}: {host.disk.read(name).decode()}")
        world.reached("either name" if {"file", "new"} & {*host.disk} else "neither name")

    return program


NEW = "write('new', b'new!')"
RENAME = "rename('new', 'file')"


@pytest.mark.parametrize(
    ("calls", "files"),
    [
        (("write('file', b'new!')",), {"old", "", "ne", "new!"}),
        (("write('file', b'new!')", "sync('file')"), {"new!"}),
        (("append('file', b'er!!')",), {"old", "older", "older!!"}),
        # Renamed before its content is on the disk, as the file systems that lose it have it.
        ((NEW, RENAME), {"old", "", "ne", "new!"}),
        ((NEW, "sync('new')", RENAME), {"old", "new!"}),
        ((NEW, "sync('new')", RENAME, "sync_directory()"), {"new!"}),
        ((NEW, RENAME, "sync()"), {"new!"}),
        (("remove('file')", NEW), {"old"}),
    ],
)
def test_what_a_power_failure_leaves_of_a_file_is_what_posix_allows(
    calls: tuple[str, ...], files: set[str]
) -> None:
    """Content that was synced is whole; a rename happens or not, and never takes both names."""
    report = explore(saves(*calls), strategy="depth-first")
    assert report.verdict is Verdict.PROVED, report.reason
    left = {label.removeprefix("file: ") for label in report.labels if label.startswith("file: ")}
    assert left == files
    assert ("neither name" in report.labels) == (calls[0] == "remove('file')")


def test_what_a_power_failure_takes_is_part_of_that_fault() -> None:
    """One departure, so that a proof of those with one has seen what was not synced lost."""

    async def main(world: World, told: list[bool]) -> None:
        disk = world.host("a").disk
        if told:
            world.check("order" in disk, "what was told is there")
            return
        disk.write("order", b"1")
        told.append(True)
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main, world, [])
        host.may_crash(restart_s=1.0)
        await process.returned()

    report = explore(program, strategy=DepartureBounded(1))
    assert report.verdict is Verdict.REFUTED
    assert "departures: 1, at 2 of" in report.text


def test_a_crash_in_the_middle_of_a_write_leaves_an_empty_file() -> None:
    """So a file that is written in place is no safe one, and one that is renamed is."""

    async def main(world: World, is_renamed: bool) -> None:
        disk = world.host("a").disk
        if is_renamed:
            disk.write("new", b"new")
            disk.rename("new", "file")
        else:
            disk.write("file", b"new")

    def program(is_renamed: bool) -> Program:
        async def replaces(world: World) -> None:
            host = world.host("a")
            host.disk.write("file", b"old")
            process = host.run(main, world, is_renamed)
            process.may_crash()
            await process.ended()
            found = host.disk.read("file")
            world.check(found in (b"old", b"new"), "the file is whole", f"{found!r}")

        return replaces

    report = explore(program(is_renamed=False))
    assert report.verdict is Verdict.REFUTED
    assert "crashes before it fills file, which is empty" in report.text
    assert explore(program(is_renamed=True)).verdict is Verdict.PROVED


def test_a_process_that_crashes_loses_nothing_it_has_written() -> None:
    """What it has written is the system's, and not its own."""

    async def main(world: World) -> None:
        world.host("a").disk.write("ledger", b"1")
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main, world)
        await asyncio.sleep(1)
        process.crash()
        assert host.disk.read("ledger") == b"1"

    assert explore(program).verdict is Verdict.PROVED
