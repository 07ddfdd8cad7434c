"""The scenarios at registry level: the bench's requests against a registry, nothing around it."""

from __future__ import annotations

import asyncio

from registry.errors import StreamError
from registry.protocol import State
from sim.bench.harness.registry_bench import BY_REGISTER, Bench, Request
from sim.bench.scenarios.base import (
    GRACE,
    RegistryScenario,
    cleans_up_for,
    instant,
    steady,
    swallows_cancel_for,
)
from sim.bench.scenarios.strategies import STRATEGY_SCENARIOS


async def second_prompt(bench: Bench) -> None:
    by = bench.entry_point()
    finished = False

    async def work(request: Request) -> None:
        nonlocal finished
        await steady(request)
        finished = True

    first = bench.request("p1", "s", work, by=by)
    second = await bench.arrives("p2", "s", instant, latest=2.0, by=by)
    await bench.quiet()
    bench.world.reached("p1 finished first" if finished else "p1 was stopped")
    if second.answer == "admitted" and first.answer == "admitted":
        bench.world.reached("both were admitted")


async def racing_registers(bench: Bench) -> None:
    first = bench.request("p1", "s", cleans_up_for(0.2, 0.2))
    for _ in range(2):
        await asyncio.sleep(0)
    assert first.answer == "admitted"
    racers = [
        asyncio.create_task(bench.arrives(name, "s", instant, latest=0.3))
        for name in ("p2", "p3", "p4")
    ]
    await asyncio.gather(*racers)
    await bench.quiet()
    answers = {racer.result().answer for racer in racers}
    if answers == {"admitted"}:
        bench.world.reached("one after the other")
    elif "refused: StreamSuperseded" in answers:
        bench.world.reached("a racer was overtaken")


async def swallowed_cancel(bench: Bench) -> None:
    by = bench.entry_point()
    first = bench.request("p1", "s", swallows_cancel_for(GRACE + 3), by=by)
    second = await bench.arrives("p2", "s", instant, latest=0.5, by=by)
    third = await bench.arrives("p3", "s", instant, latest=GRACE + 2, by=by)
    await bench.world.outside("the grace is over", earliest=GRACE, latest=GRACE)
    if first.works_upstream:
        bench.world.reached("p1 outlived its grace")
    await bench.quiet()
    if second.answer == "admitted" or third.answer == "admitted":
        bench.world.reached("admitted while p1 goes on")
    if second.answer == "refused: StreamSuperseded" and third.answer == "admitted":
        bench.world.reached("p3 inherited the running grace")


async def cancel_meets_finish(bench: Bench) -> None:
    by = bench.entry_point()

    async def work(request: Request) -> None:
        await request.outside("chunk 1", 0.5, 0.5)
        await request.emit("chunk 1")
        bench.world.reached("finished")

    first = bench.request("p1", "s", work, by=by)
    await bench.world.outside("stop is pressed", earliest=0.49, latest=0.51)
    bench.world.reached("cancel came first" if first.works_upstream else "finish came first")
    await bench.cancel("p1")
    await bench.arrives("p2", "s", instant, latest=0.02, by=by)
    if not await bench.cancel("no such stream"):
        bench.world.reached("an unknown stream is not cancelled")


async def caller_leaves_while_waiting(bench: Bench) -> None:
    by = bench.entry_point()
    bench.request("p1", "s", cleans_up_for(0.5, 0.5), by=by)
    second = await bench.arrives("p2", "s", steady, latest=0.1, by=by)
    await bench.world.outside("p2's caller leaves", latest=1.2)
    # If it leaves in the very step in which p1 ends, p2 is becoming ACTIVE.
    became_active = bench.state_of(second) is State.ACTIVE
    answer_seen = second.answer
    bench.leave(second)
    await bench.quiet()
    if answer_seen is None:
        bench.world.reached("left while waiting")
        if became_active:
            bench.world.reached("left just as it became ACTIVE")
    else:
        bench.world.reached("left mid-stream")


async def caller_leaves_overtaken(bench: Bench) -> None:
    """p2's caller leaves and p3 arrives around the moment in which p2 becomes ACTIVE."""
    by = bench.entry_point()
    bench.request("p1", "s", cleans_up_for(0.5, 0.5), by=by)
    await asyncio.sleep(0.1)
    second = bench.request("p2", "s", steady, by=by)

    async def leaves() -> None:
        await bench.world.outside("p2's caller leaves", earliest=0.5, latest=0.5)
        if second.answer is None:
            bench.world.reached("p2 left unanswered")
        bench.leave(second)

    async def overtakes() -> None:
        await bench.arrives("p3", "s", instant, earliest=0.5, latest=0.5, by=by)

    await asyncio.gather(leaves(), overtakes())


async def caller_leaves_mid_stream(bench: Bench) -> None:
    by = bench.entry_point()
    first = bench.request("p1", "s", steady, by=by)
    await bench.world.outside("p1's caller leaves", latest=0.9)
    bench.leave(first)
    second = await bench.arrives("p2", "s", instant, latest=0.1, by=by)
    await bench.quiet()
    if second.answer == "admitted":
        bench.world.reached("p2 was admitted")


async def explicit_cancel(bench: Bench) -> None:
    by = bench.entry_point()
    first = bench.request("p1", "s", cleans_up_for(0.1, 0.3), by=by)
    await bench.world.outside("stop is pressed", latest=0.2)
    if first.works_upstream:
        bench.world.reached("cancelled")
    await bench.cancel("p1")
    await bench.world.outside("stop is pressed again", latest=0.4)
    bench.world.reached("pressed while stopping" if first.works_upstream else "pressed too late")
    if not await bench.cancel("p1"):
        bench.world.reached("the second press does nothing")


async def prompt_after_stop(bench: Bench) -> None:
    by = bench.entry_point()
    bench.request("p1", "s", cleans_up_for(0.3, 0.3), by=by)
    await bench.world.outside("stop is pressed", latest=0.1)
    await bench.cancel("p1")
    second = await bench.arrives("p2", "s", instant, latest=0.4, by=by)
    await bench.quiet()
    if second.answer == "admitted":
        bench.world.reached("p2 was admitted")


async def cancel_while_waiting(bench: Bench) -> None:
    by = bench.entry_point()
    bench.request("p1", "s", cleans_up_for(0.4, 0.4), by=by)
    second = await bench.arrives("p2", "s", instant, latest=0.1, by=by)
    await bench.world.outside("stop is pressed", latest=0.5)
    if second.answer is None:
        bench.world.reached("pressed while p2 waits")
    await bench.cancel("p2")
    await bench.quiet()
    if second.answer == "refused: StreamCancelled":
        bench.world.reached("cancelled while waiting")


async def detached_limit(bench: Bench) -> None:
    """The bench's limit is one DETACHED stream per session: the second one is overdue."""
    forever = swallows_cancel_for(3 * GRACE + 2)
    bench.request("p1", "s", forever, by=BY_REGISTER)
    await bench.arrives("p2", "s", forever, latest=0.1)
    await asyncio.sleep(GRACE + 0.5)  # p1 is DETACHED, p2 ACTIVE
    if await bench.cancel("p1") is False:
        bench.world.reached("a DETACHED stream is not cancelled again")
    third = await bench.arrives("p3", "s", instant, latest=0.1)
    await asyncio.sleep(GRACE + 0.5)  # p2 is overdue
    if any(view.overdue for view in bench.streams()):
        bench.world.reached("overdue")
        bench.world.check(not await bench.cancel("p2"), "an overdue stream is told but once")
    fourth = await bench.arrives("p4", "s", instant, latest=0.1)
    other = bench.request("q1", "another", instant)
    await bench.quiet()
    if third.answer == "refused: StreamRefused" and fourth.answer == "refused: StreamRefused":
        bench.world.reached("refused at the limit")
    if other.answer == "admitted":
        bench.world.reached("another session went on")
    last = bench.request("p5", "s", instant)
    await bench.quiet()
    if last.answer == "admitted":
        bench.world.reached("free again once they ended")


async def two_sessions(bench: Bench) -> None:
    bench.request("a1", "a", cleans_up_for(0.3, 0.3))
    bench.request("b1", "b", steady)
    anonymous = bench.request("c1", None, instant)

    async def in_a() -> Request:
        return await bench.arrives("a2", "a", instant, latest=0.2)

    async def in_b() -> Request:
        return await bench.arrives("b2", "b", instant, latest=0.2)

    a2, b2 = await asyncio.gather(in_a(), in_b())
    await bench.quiet()
    if a2.answer == b2.answer == anonymous.answer == "admitted":
        bench.world.reached("all were admitted")


async def known_trace_id(bench: Bench) -> None:
    bench.request("p1", "s", steady)
    await asyncio.sleep(0.1)

    async def again() -> None:
        await bench.world.outside("p1 is sent again", latest=0.1)
        task = asyncio.create_task(asyncio.sleep(0))
        try:
            await bench.registry.register({"trace_id": "p1", "session_id": "t", "task": task})
        except StreamError as exc:
            bench.world.reached(f"refused: {type(exc).__name__}")
        await task

    await again()


async def close_while_streaming(bench: Bench) -> None:
    by = bench.entry_point()
    first = bench.request("p1", "s", cleans_up_for(0.5, 0.5), by=by)
    bench.request("q1", "another", swallows_cancel_for(GRACE + 1), by=by)
    second = await bench.arrives("p2", "s", instant, latest=0.1, by=by)
    await bench.world.outside("the process is told to end", latest=0.3)
    await bench.close()
    late = bench.request("p3", "s", instant, by=by)
    await bench.close()
    await bench.quiet()
    if second.answer == "refused: RegistryClosed":
        bench.world.reached("a waiting register was refused")
    if late.answer == "refused: RegistryClosed":
        bench.world.reached("a late register was refused")
    if first.answer == "admitted":
        bench.world.reached("a stream was stopped by close")


async def emits_after_stop(bench: Bench) -> None:
    by = bench.entry_point()

    async def stubborn(request: Request) -> None:
        for serial in range(1, 5):
            try:
                await request.outside(f"chunk {serial}", 0.2, 0.2)
            except asyncio.CancelledError:
                bench.world.reached("cancel swallowed")
            try:
                await request.emit(f"chunk {serial}")
            except StreamError:
                bench.world.reached("the gate was shut")

    bench.request("p1", "s", stubborn, by=by)
    await bench.arrives("p2", "s", steady, latest=0.7, by=by)


async def emits_after_its_end(bench: Bench) -> None:
    """p1 leaves a task behind that still holds the stream."""
    by = bench.entry_point()
    left: list[asyncio.Task[None]] = []

    async def too_late(request: Request) -> None:
        await request.outside("chunk that comes late", 0.2, 0.4)
        try:
            await request.emit("late chunk")
        except StreamError:
            bench.world.reached("the gate was shut")

    async def leaves_a_task(request: Request) -> None:
        left.append(asyncio.create_task(too_late(request), name="left behind"))
        await request.emit("chunk 1")

    bench.request("p1", "s", leaves_a_task, by=by)
    await bench.arrives("p2", "s", steady, earliest=0.1, latest=0.3, by=by)
    await asyncio.gather(*left)


async def goes_on_after_pop(bench: Bench) -> None:
    """Pop is the last act of p1's stream, but its task still closes a connection."""

    async def closes_slowly(request: Request) -> None:
        await request.outside("connection is closed", 0.3, 0.3)

    first = bench.request("p1", "s", instant)
    first.after_pop = closes_slowly
    second = await bench.arrives("p2", "s", instant, latest=0.2)
    if first.popped and second.answer is None:
        bench.world.reached("p2 came after pop, before the end")
    await bench.quiet()
    if second.answer == "admitted":
        bench.world.reached("p2 was admitted")


REGISTRY_SCENARIOS = (
    RegistryScenario(
        "second_prompt",
        "a second prompt while the first streams",
        second_prompt,
        ("p1 was stopped", "p1 finished first", "both were admitted"),
    ),
    RegistryScenario(
        "racing_registers",
        "three calls of register race while the first stream cleans up slowly",
        racing_registers,
        ("registers raced",),
        ("a racer was overtaken", "one after the other"),
    ),
    RegistryScenario(
        "swallowed_cancel",
        "a stream swallows its cancel for longer than the grace",
        swallowed_cancel,
        ("p1 outlived its grace",),
        (
            "admitted after a wait",
            "admitted while p1 goes on",
            "p3 inherited the running grace",
            "upstream overlap, fenced off",
        ),
    ),
    RegistryScenario(
        "cancel_meets_finish",
        "an explicit cancel in the very steps in which the stream finishes",
        cancel_meets_finish,
        ("finished", "cancel came first", "finish came first"),
        ("an unknown stream is not cancelled",),
    ),
    RegistryScenario(
        "caller_leaves_while_waiting",
        "the caller of a waiting register leaves: before, as, and after it becomes ACTIVE",
        caller_leaves_while_waiting,
        ("left while waiting", "left mid-stream"),
        ("left just as it became ACTIVE",),
    ),
    RegistryScenario(
        "caller_leaves_overtaken",
        "the caller leaves as its stream becomes ACTIVE, and a newer prompt comes as well",
        caller_leaves_overtaken,
        ("p2 left unanswered",),
    ),
    RegistryScenario(
        "caller_leaves_mid_stream",
        "the caller leaves mid-stream and prompts again",
        caller_leaves_mid_stream,
        ("p2 was admitted",),
    ),
    RegistryScenario(
        "explicit_cancel",
        "a stream is cancelled by name, twice, and no other follows",
        explicit_cancel,
        ("cancelled", "pressed while stopping", "pressed too late"),
        ("the second press does nothing",),
    ),
    RegistryScenario(
        "prompt_after_stop",
        "stop is pressed, and a new prompt sent while the stream still cleans up",
        prompt_after_stop,
        ("p2 was admitted",),
    ),
    RegistryScenario(
        "cancel_while_waiting",
        "a waiting stream is cancelled by name",
        cancel_while_waiting,
        ("pressed while p2 waits",),
        ("cancelled while waiting",),
    ),
    RegistryScenario(
        "detached_limit",
        "streams hang until no more may be detached",
        detached_limit,
        ("another session went on", "free again once they ended"),
        ("a DETACHED stream is not cancelled again", "overdue", "refused at the limit"),
    ),
    RegistryScenario(
        "two_sessions",
        "two sessions side by side, and a stream without a session",
        two_sessions,
        ("all were admitted",),
    ),
    RegistryScenario(
        "known_trace_id",
        "a trace id is registered twice",
        known_trace_id,
        ("refused: TraceIdKnown",),
        needs=("snapshot",),
    ),
    RegistryScenario(
        "close_while_streaming",
        "the registry is closed while streams run, wait and hang",
        close_while_streaming,
        (
            "a waiting register was refused",
            "a late register was refused",
            "a stream was stopped by close",
        ),
        needs=("close",),
    ),
    RegistryScenario(
        "emits_after_stop",
        "a stream goes on trying to emit after it was stopped",
        emits_after_stop,
        ("cancel swallowed", "the gate was shut"),
        needs=("stream", "snapshot"),
    ),
    RegistryScenario(
        "emits_after_its_end",
        "a task that a stream has left behind goes on trying to emit",
        emits_after_its_end,
        ("the gate was shut",),
        needs=("stream", "snapshot"),
    ),
    RegistryScenario(
        "goes_on_after_pop",
        "a stream's task goes on after pop",
        goes_on_after_pop,
        ("p2 was admitted",),
        ("p2 came after pop, before the end",),
        needs=("stream", "snapshot"),
    ),
    *STRATEGY_SCENARIOS,
)
