"""The scenarios at registry level in which a prompt does not interrupt what its session does."""

from __future__ import annotations

import asyncio

from registry.protocol import State, Strategy
from sim.bench.harness.registry_bench import BY_REGISTER, BY_STREAM, QUEUE_S, Bench, Request
from sim.bench.scenarios.base import (
    GRACE,
    RegistryScenario,
    cleans_up_for,
    instant,
    steady,
    swallows_cancel_for,
)

ENQUEUE, REJECT = Strategy.ENQUEUE, Strategy.REJECT


async def enqueue_in_order(bench: Bench) -> None:
    """Two are enqueued while the first streams, which is left to come to its end."""
    by = bench.entry_point()
    began: list[str] = []

    async def work(request: Request) -> None:
        began.append(request.name)
        await steady(request)

    first = bench.request("p1", "s", work, by=by)
    second = await bench.arrives("p2", "s", work, latest=0.3, by=by, strategy=ENQUEUE)
    third = await bench.arrives("p3", "s", work, latest=0.3, by=by, strategy=ENQUEUE)
    if second.answer is None and third.answer is None and first.works_upstream:
        bench.world.reached("two were enqueued")
    await bench.quiet()
    order = "of those that are enqueued the oldest is next"
    bench.world.check(began == ["p1", "p2", "p3"], order, f"{began}")
    bench.world.reached("each had its turn")


async def interrupt_overtakes_queue(bench: Bench) -> None:
    """One is enqueued, then one interrupts, and another is enqueued behind that."""
    by = bench.entry_point()
    first = bench.request("p1", "s", cleans_up_for(0.3, 0.3), by=by)
    second = await bench.arrives("p2", "s", instant, latest=0.1, by=by, strategy=ENQUEUE)
    third = await bench.arrives("p3", "s", instant, latest=0.1, by=by)
    fourth = await bench.arrives("p4", "s", instant, latest=0.5, by=by, strategy=ENQUEUE)
    if third.answer is None and fourth.answer is None:
        bench.world.reached("enqueued behind one that interrupts")
    await bench.quiet()
    if second.answer == "refused: StreamSuperseded":
        bench.world.reached("the queue was overtaken")
    if first.answer == third.answer == fourth.answer == "admitted":
        bench.world.reached("the others had their turn")


async def leaves_while_queued(bench: Bench) -> None:
    """Of two that are enqueued the first leaves, or is stopped, around the end of the holder."""
    by = bench.entry_point()
    bench.request("p1", "s", steady, by=by)
    await asyncio.sleep(0.1)
    second = bench.request("p2", "s", steady, by=by, strategy=ENQUEUE)
    third = bench.request("p3", "s", instant, by=by, strategy=ENQUEUE)
    how = bench.world.choose("p2", ("leaves", "is stopped"))
    await bench.world.outside(f"p2 {how}", earliest=0.8, latest=1.0)
    waited = bench.state_of(second) is State.WAITING
    if how == "leaves":
        bench.leave(second)
    else:
        await bench.cancel("p2")
    await bench.quiet()
    bench.world.reached(f"{how} {'while queued' if waited else 'as it had its turn'}")
    if third.answer == "admitted":
        bench.world.reached("the next had its turn")


async def queue_is_full(bench: Bench) -> None:
    """The bench's limit is two enqueued streams per session."""
    by = bench.entry_point()
    bench.request("p1", "s", steady, by=by)
    await asyncio.sleep(0.1)
    queued = [bench.request(name, "s", instant, by=by, strategy=ENQUEUE) for name in ("p2", "p3")]
    other = bench.request("q1", "another", instant, by=by, strategy=ENQUEUE)
    fourth = await bench.arrives("p4", "s", instant, latest=1.0, by=by, strategy=ENQUEUE)
    await bench.quiet()
    if fourth.answer == "refused: QueueFull":
        bench.world.reached("the queue was full")
    if {each.answer for each in (*queued, fourth)} == {"admitted"}:
        bench.world.reached("there was room again")
    bench.world.check(other.answer == "admitted", "the queue of a session is its own")


async def reject_when_busy(bench: Bench) -> None:
    """While the session streams, while it cleans up and another waits, and when it is free."""
    by = bench.entry_point()
    bench.request("p1", "s", cleans_up_for(0.2, 0.2), by=by)
    await asyncio.sleep(0.1)
    second = bench.request("p2", "s", instant, by=by, strategy=REJECT)
    third = await bench.arrives("p3", "s", instant, latest=0.1, by=by)
    fourth = await bench.arrives("p4", "s", instant, latest=0.5, by=by, strategy=REJECT)
    await bench.quiet()
    if second.answer == "refused: SessionBusy":
        bench.world.reached("refused while another streams")
    if fourth.answer == "refused: SessionBusy":
        bench.world.reached("refused while another stops")
    elif fourth.answer == "admitted":
        bench.world.reached("admitted to a free session")
    bench.world.check(third.answer == "admitted", "who is rejected keeps nobody out")


async def waits_too_long(bench: Bench) -> None:
    """The holder ends around the time at which the enqueued one has waited long enough."""
    by = bench.entry_point()

    async def long(request: Request) -> None:
        # Not lateness_s before the deadline: instants that are nanoseconds apart match as states.
        await request.outside("comes to its end", QUEUE_S - 0.1, QUEUE_S + 1)

    bench.request("p1", "s", long, by=by)
    second = bench.request("p2", "s", instant, by=by, strategy=ENQUEUE)
    await bench.quiet()
    if second.answer == "refused: QueueTimeout":
        bench.world.reached("waited for too long")
    elif second.answer == "admitted":
        bench.world.reached("had its turn at the last moment")


async def queue_behind_a_hang(bench: Bench) -> None:
    """Stop is pressed, and the holder hangs: the queue goes on, or at the limit is refused."""
    hangs = swallows_cancel_for(2 * GRACE + 2)
    bench.request("p1", "s", hangs)
    second = bench.request("p2", "s", hangs, strategy=ENQUEUE)
    third = bench.request("p3", "s", instant, strategy=ENQUEUE)
    await asyncio.sleep(0.1)
    await bench.cancel("p1")
    await asyncio.sleep(GRACE + 0.5)  # p1 is DETACHED, p2 ACTIVE
    if second.answer == "admitted" and third.answer is None:
        bench.world.reached("the queue went on")
    await bench.cancel("p2")
    await bench.world.outside("the grace is over", earliest=GRACE, latest=GRACE + 0.1)
    await bench.quiet()
    if third.answer == "refused: StreamRefused":
        bench.world.reached("refused at the limit")


async def close_with_a_queue(bench: Bench) -> None:
    by = bench.entry_point()
    first = bench.request("p1", "s", cleans_up_for(0.3, 0.3), by=by)
    queued = [
        await bench.arrives(name, "s", instant, latest=0.1, by=by, strategy=ENQUEUE)
        for name in ("p2", "p3")
    ]
    await bench.world.outside("the process is told to end", latest=0.2)
    await bench.close()
    await bench.quiet()
    if {each.answer for each in queued} == {"refused: RegistryClosed"}:
        bench.world.reached("the queue was refused")
    had_turn = [each.name for each in queued if each.answer == "admitted"]
    bench.world.check(not had_turn, "after a close none has its turn", f"{had_turn}")
    bench.world.check(first.answer == "admitted", "who streams was let in before the close")


async def cancel_in_the_queue(bench: Bench) -> None:
    """Two are enqueued, one by each interface; each task may be cancelled at any of its steps."""
    names = ("p2", "p2 handler", "p3", "p3 handler")
    bench.world.offer_cancels(lambda task: task.get_name() in names)
    bench.request("p1", "s", steady)
    await asyncio.sleep(0.1)
    queued = [
        bench.request("p2", "s", steady, by=BY_REGISTER, strategy=ENQUEUE),
        bench.request("p3", "s", steady, by=BY_STREAM, strategy=ENQUEUE),
    ]
    for each in queued:
        each.may_be_cancelled = True
    await bench.quiet()
    last = bench.request("p4", "s", instant)
    await bench.quiet()
    bench.world.check(last.answer == "admitted", "the session is free again", f"{last.answer}")
    answers = [each.answer for each in queued]
    if answers == ["admitted", "admitted"]:
        bench.world.reached("both had their turn")
    for each in queued:
        if each.answer == "left":
            bench.world.reached(f"{each.name} left the queue")


_NEEDS = ("stream", "snapshot", "strategies")

STRATEGY_SCENARIOS = (
    RegistryScenario(
        "enqueue_in_order",
        "two prompts are enqueued while the first streams",
        enqueue_in_order,
        ("two were enqueued", "each had its turn"),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "interrupt_overtakes_queue",
        "a prompt interrupts while another is enqueued, and one more is enqueued behind it",
        interrupt_overtakes_queue,
        (
            "the queue was overtaken",
            "enqueued behind one that interrupts",
            "the others had their turn",
        ),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "leaves_while_queued",
        "an enqueued prompt leaves or is stopped: before, as, and after it has its turn",
        leaves_while_queued,
        (
            "leaves while queued",
            "leaves as it had its turn",
            "is stopped while queued",
            "is stopped as it had its turn",
            "the next had its turn",
        ),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "queue_is_full",
        "one more prompt is enqueued than may wait",
        queue_is_full,
        ("the queue was full", "there was room again"),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "reject_when_busy",
        "prompts that are to be rejected, in a session that is busy and in one that is not",
        reject_when_busy,
        (
            "refused while another streams",
            "refused while another stops",
            "admitted to a free session",
        ),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "waits_too_long",
        "the holder ends as the enqueued prompt has waited for as long as it may",
        waits_too_long,
        ("waited for too long", "had its turn at the last moment"),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "queue_behind_a_hang",
        "streams hang before others that are enqueued, until no more may be detached",
        queue_behind_a_hang,
        ("the queue went on", "refused at the limit"),
        needs=_NEEDS,
    ),
    RegistryScenario(
        "close_with_a_queue",
        "the registry is closed while prompts are enqueued",
        close_with_a_queue,
        ("the queue was refused",),
        needs=(*_NEEDS, "close"),
    ),
    RegistryScenario(
        "cancel_in_the_queue",
        "a cancel at each step of two enqueued prompts, and a second one in the clean-up",
        cancel_in_the_queue,
        ("both had their turn", "p2 left the queue", "p3 left the queue"),
        needs=_NEEDS,
        strategy="cancel everywhere",
    ),
)
