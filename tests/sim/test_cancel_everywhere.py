"""`strategy="cancel everywhere"`: what its proof is one of."""

from __future__ import annotations

import asyncio

from sim import World, explore


async def _workers(world: World) -> None:
    tasks = [asyncio.create_task(asyncio.sleep(1), name=f"worker-{n}") for n in range(2)]
    await asyncio.wait(tasks)


def test_a_proof_without_a_cancel_is_none() -> None:
    """Without an offer nothing is cancelled, and the reason says what to call."""
    report = explore(_workers, strategy="cancel everywhere")
    assert report.verdict == "inconclusive"
    assert "world.offer_cancels()" in report.reason


def test_a_filter_that_lets_nothing_through_is_no_proof() -> None:
    """Offers were asked for, and each task was left out of them."""

    async def program(world: World) -> None:
        world.offer_cancels(lambda task: False)
        await _workers(world)

    report = explore(program, strategy="cancel everywhere")
    assert report.verdict == "inconclusive"
    assert "lets a task through" in report.reason


def test_the_claim_names_what_the_filter_leaves_out() -> None:
    """Every task but the program's own, and but those that `to=` keeps from it."""

    async def every(world: World) -> None:
        world.offer_cancels()
        await _workers(world)

    async def one(world: World) -> None:
        world.offer_cancels(lambda task: task.get_name() != "worker-1")
        await _workers(world)

    report = explore(every, strategy="cancel everywhere")
    assert report.verdict == "proved", report.text
    assert "every task but the program's own, and" in report.claim
    report = explore(one, strategy="cancel everywhere")
    assert "but the program's own and worker-1, which `to=` leaves out" in report.claim
