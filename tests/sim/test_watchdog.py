"""A step that never gives the loop back is broken off, and refutes the program."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from sim import World, explore
from sim.export.file import NotExportable
from sim.kernel import watchdog
from sim.kernel.execution import guarded
from sim.kernel.violation import Kind

pytestmark = [
    pytest.mark.socket,  # real time: of the processor, and some tenths of a second
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no watchdog here"),
]


@pytest.fixture(autouse=True)
def _ticks_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TICK_S", 0.1)


def spin() -> None:
    while True:
        pass


async def spins_if_overtaken(world: World) -> None:
    """Where the second arrival lands first, the one who waits for it never gives the loop back."""
    landed: list[str] = []

    async def arrive(name: str) -> None:
        await world.outside(name)
        landed.append(name)
        if landed == ["b"]:
            while "a" not in landed:
                pass

    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(arrive(name))


async def spins_and_swallows(world: World) -> None:
    async def stubborn() -> None:
        while True:
            try:
                spin()
            except Exception:
                continue

    await asyncio.create_task(stubborn())


async def spins_in_a_callback(world: World) -> None:
    asyncio.get_running_loop().call_soon(spin)
    await asyncio.sleep(1)


async def spins_in_a_thread(world: World) -> None:
    await asyncio.to_thread(spin)


async def spins_at_a_poll(world: World) -> None:
    world.always("the predicate is true", lambda: spin() or True)  # type: ignore[func-returns-value]
    await asyncio.sleep(1)


async def spins_when_it_is_cancelled(world: World) -> None:
    async def last_words() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            spin()

    asyncio.create_task(last_words(), name="last words")  # noqa: RUF006
    await asyncio.sleep(0)
    world.check(False, "the end comes early")


@pytest.mark.parametrize(
    "program",
    [
        spins_if_overtaken,
        spins_and_swallows,
        spins_in_a_callback,
        spins_in_a_thread,
        spins_at_a_poll,
    ],
)
def test_a_step_without_an_end_refutes(program: Any) -> None:
    """Wherever it runs: the verdict names the sentence, and says where the step stood."""
    report = explore(program, max_executions=50)
    assert report.verdict == "refuted", report.reason
    assert report.counterexample is not None
    assert report.counterexample.property == Kind.ENDLESS_STEP.value
    assert "it stood in" in report.counterexample.text
    assert "test_watchdog.py" in report.counterexample.text


def test_what_comes_after_the_end_is_broken_off_as_well() -> None:
    """A task that spins when the program's end cancels it doesn't keep the verdict waiting."""
    report = explore(spins_when_it_is_cancelled, max_executions=1)
    assert report.verdict == "refuted"
    assert "the end comes early" in report.reason


def test_it_is_replayed_and_not_exported() -> None:
    """On stock asyncio the step would spin for ever, so no file is written."""
    report = explore(spins_if_overtaken, max_executions=50)
    assert report.counterexample is not None
    again = report.counterexample.replay(spins_if_overtaken)
    assert again.violation is not None
    assert again.violation.property == Kind.ENDLESS_STEP.value
    with pytest.raises(NotExportable, match="a step never ends"):
        report.counterexample.export(spins_if_overtaken)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each tick."""
    seen: list[int] = []
    tick = watchdog._tick

    def count_and_tick(number: int, frame: Any) -> None:
        seen.append(number)
        tick(number, frame)

    monkeypatch.setattr(watchdog, "_tick", count_and_tick)
    return seen


def test_many_short_steps_are_no_long_one(ticks: list[int]) -> None:
    """Ticks that find another poll of the execution break nothing off."""

    async def polls(world: World) -> None:
        while len(ticks) < 3:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)

    report = explore(polls, strategy="natural", max_executions=1, horizon_s=1e9)
    assert report.counterexample is None
    assert len(ticks) >= 3


def test_many_short_executions_are_no_long_step(ticks: list[int]) -> None:
    """Ticks that find the same poll of another execution break nothing off."""

    async def short(world: World) -> None:
        await asyncio.sleep(1)

    report = explore(short, watch=lambda *_: False, max_executions=1)
    assert report.verdict == "proved"
    with guarded():
        while len(ticks) < 3:
            assert explore(short, max_executions=1).verdict == "proved"


def test_nothing_ticks_outside() -> None:
    """The timer and the handler of the signal are given back."""
    with guarded():
        assert signal.getitimer(signal.ITIMER_VIRTUAL) != (0.0, 0.0)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
