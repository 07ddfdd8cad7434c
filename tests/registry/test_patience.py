"""Limits on somebody else, where this process itself was late, and where it was not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from registry.patience import LATE_S, TURNS, PatientTimeout, late_by, over_within, within
from sim import World, run
from tests.late_loop import LateLoop, late_run, turns


@pytest.mark.parametrize("needed", range(1, TURNS))
def test_what_came_while_the_loop_stood_still_is_taken(needed: int) -> None:
    """The timer is as late as the loop; what needs a few iterations to be seen is in time."""

    async def main(loop: LateLoop) -> None:
        async with PatientTimeout(5):
            loop.now_s += 60
            await turns(needed)

    late_run(main)


def test_who_says_nothing_is_given_up_also_by_a_late_loop() -> None:
    """A loop that is late each time turns a few times, and no more."""

    async def main(loop: LateLoop) -> None:
        waited = 0

        async def waits() -> None:
            nonlocal waited
            async with PatientTimeout(5):
                while True:
                    loop.now_s += 60
                    waited += 1
                    await asyncio.sleep(0)

        with pytest.raises(TimeoutError):
            await waits()
        # Once it is given more.
        assert waited <= TURNS + 5

    late_run(main)


async def sleeps(act: Callable[[PatientTimeout], None]) -> None:
    """For longer than its limit, to which something is done meanwhile."""
    async with PatientTimeout(5) as timeout:
        asyncio.get_running_loop().call_soon(act, timeout)
        await asyncio.sleep(60)


def test_a_limit_is_kept_where_the_loop_is_on_time() -> None:
    """In virtual time: at the limit, no sooner and no later than the loop may be late."""

    async def program(world: World) -> None:
        before = world.now
        with pytest.raises(TimeoutError):
            await sleeps(lambda timeout: None)
        assert 5 <= world.now - before < 5 + LATE_S

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_a_limit_can_be_shortened_and_ended() -> None:
    """A shut-down shortens a wait, never the other way round, or ends it at once."""

    async def program(world: World) -> None:
        for act, expected in (
            (lambda timeout: timeout.shorten(1), 1),
            (lambda timeout: timeout.shorten(9), 5),
            (lambda timeout: timeout.end(), 0),
        ):
            before = world.now
            with pytest.raises(TimeoutError):
                await sleeps(act)
            assert expected <= world.now - before < expected + LATE_S

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_a_cancel_from_elsewhere_is_none_of_the_limit() -> None:
    """It stays a cancel, and no timer is left."""

    async def main(loop: LateLoop) -> None:
        async def waits() -> None:
            async with PatientTimeout(5):
                await asyncio.sleep(60)

        task = asyncio.create_task(waits())
        await turns(2)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    late_run(main)


@pytest.mark.parametrize(("stood_s", "more_s"), [(7.0, 2.0), (60.0, 5.0)])
def test_a_process_that_stood_still_gives_once_more_what_it_was_late_by(
    stood_s: float, more_s: float
) -> None:
    """Who could not answer meanwhile has as long again, as far as the limit, and no longer."""

    async def main(loop: LateLoop) -> None:
        async def waits(after_s: float) -> None:
            async with PatientTimeout(5):
                loop.now_s += stood_s
                await turns(TURNS)
                loop.now_s += after_s
                await turns(TURNS)

        await waits(more_s - 0.01)
        with pytest.raises(TimeoutError):
            await waits(more_s + 0.01)

    late_run(main)


@pytest.mark.parametrize(("late_s", "counts"), [(0.0, 0.0), (LATE_S / 2, 0.0), (60.0, 60.0)])
def test_a_wait_is_late_by_more_than_a_loop_without_work(late_s: float, counts: float) -> None:
    """What a loop is always late by counts as nothing."""

    async def main(loop: LateLoop) -> None:
        due = loop.now_s
        loop.now_s += late_s
        assert late_by(due) == counts

    late_run(main)


@pytest.mark.parametrize(("needed", "is_over"), [(5, True), (200, False)])
def test_a_task_that_had_no_turn_is_not_late(needed: int, is_over: bool) -> None:
    """What takes it a few turns is over in time; one that goes on is not, in a late loop too."""

    async def main(loop: LateLoop) -> None:
        async def ends() -> None:
            await turns(needed)

        def stand_still() -> None:
            loop.now_s += 60

        task = asyncio.create_task(ends())
        loop.call_soon(stand_still)
        # By then it has its limit once more.
        loop.call_later(60, stand_still)
        assert await over_within(task, 0.5) is is_over
        task.cancel()

    late_run(main)


def test_a_task_that_ends_is_not_waited_for_and_a_cancel_of_the_wait_is_not_its_own() -> None:
    """With a limit and without; no timer is left behind."""

    async def main(loop: LateLoop) -> None:
        for limit_s in (5.0, None):
            task = asyncio.create_task(turns(3))
            assert await over_within(task, limit_s)
            assert await over_within(task, limit_s)
            endless = asyncio.create_task(asyncio.sleep(3600))
            waiting = asyncio.create_task(over_within(endless, limit_s))
            await turns(2)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled() and not endless.done()
            endless.cancel()

    late_run(main)


# ---- limits that are made only where something is waited for ------------------------------------


def _no_limit() -> PatientTimeout:
    raise AssertionError("a limit was made")


def test_what_is_over_at_once_has_no_limit_made_for_it() -> None:
    """Neither where it returns nor where it raises."""

    async def returns() -> str:
        return "sent"

    async def raises() -> None:
        raise KeyError("why")

    async def main() -> None:
        assert await within(_no_limit, returns()) == "sent"
        with pytest.raises(KeyError, match="why"):
            await within(_no_limit, raises())

    asyncio.run(main())


def test_what_waits_has_its_limit_and_its_result() -> None:
    """From its first wait on, however often it waits; what it answers or raises comes out."""

    async def waits(seconds: float) -> str:
        for _ in range(3):
            await asyncio.sleep(seconds)
        return "sent"

    async def raises() -> None:
        await asyncio.sleep(1)
        raise KeyError("why")

    async def program(world: World) -> None:
        assert await within(lambda: PatientTimeout(5), waits(1)) == "sent"
        with pytest.raises(KeyError, match="why"):
            await within(lambda: PatientTimeout(5), raises())
        before = world.now
        with pytest.raises(TimeoutError):
            await within(lambda: PatientTimeout(5), waits(3))
        assert 5 <= world.now - before < 5 + LATE_S

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_a_cancel_reaches_what_waits_within_a_limit() -> None:
    """It may clean up, and wait for that; then the cancel goes on."""
    seen: list[str] = []

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)
            seen.append("cleaned")

    async def program(world: World) -> None:
        task = asyncio.create_task(within(lambda: PatientTimeout(5), cleans_up()))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert seen == ["cleaned"]

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome
