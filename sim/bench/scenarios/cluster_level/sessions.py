"""What else happens to sessions that workers share: stops by name, leaving, ending, strategies."""

from __future__ import annotations

from dataclasses import replace

from registry.states import Strategy
from sim.bench.harness.cluster_bench import LIMITS, LOSSES, ClusterBench, Trouble
from sim.bench.harness.cluster_worker import POLL_S, Press, Prompt
from sim.bench.scenarios.cluster_level.prompts import (
    FIRST,
    NEVER_S,
    SECOND,
    SLOW_S,
    THIRD,
    TOO_SLOW_S,
    workers_of,
)
from sim.bench.scenarios.cluster_level.story import ClusterScenario

GRACE_S = LIMITS.grace_ms / 1000


async def alternating(bench: ClusterBench) -> None:
    """Four prompts, by turns at two workers, each at a time of its own."""
    first = replace(FIRST, cleanup_s=1.5)
    v = bench.worker("v", first, Prompt("4", earliest_s=1.5, latest_s=1.5))
    long = replace(SECOND, life_s=60.0), Prompt("3", earliest_s=1.0, latest_s=1.0, life_s=60.0)
    await bench.over(v, bench.worker("w", *long))


async def stop_is_pressed(bench: ClusterBench) -> None:
    """At another worker than that of the stream."""
    v = bench.worker("v", FIRST)
    w = bench.worker("w")
    w.presses = (Press("v", "1", 0.2, 0.5),)
    await bench.over(v, w)


async def stop_of_one_that_waits(bench: ClusterBench) -> None:
    v, w = workers_of(bench, replace(FIRST, cleanup_s=SLOW_S))
    v.presses = (Press("w", "2", 0.6, 2.0),)
    await bench.over(v, w)


async def leaves_while_waiting(bench: ClusterBench) -> None:
    second = replace(SECOND, leaves_s=1.0)
    v, w = workers_of(bench, replace(FIRST, cleanup_s=SLOW_S), second)
    await bench.over(v, w, bench.worker("u", replace(THIRD, latest_s=2.0)))


async def worker_ends(bench: ClusterBench) -> None:
    """A worker hands its sessions over: its stream is stopped, and the one that waits is let in."""
    v, w = workers_of(bench)
    v.ends_s = 0.3, 1.0
    await bench.over(v, w)


async def waiting_worker_ends(bench: ClusterBench) -> None:
    v, w = workers_of(bench, replace(FIRST, cleanup_s=SLOW_S))
    w.ends_s = 0.5, 2.0
    await bench.over(v, w)


async def enqueued(bench: ClusterBench) -> None:
    first = replace(FIRST, life_s=1.0)
    second = replace(SECOND, strategy=Strategy.ENQUEUE)
    third = replace(THIRD, strategy=Strategy.ENQUEUE)
    v, w = workers_of(bench, first, second)
    await bench.over(v, w, bench.worker("u", third))


async def rejected(bench: ClusterBench) -> None:
    first = replace(FIRST, life_s=1.0)
    await bench.over(*workers_of(bench, first, replace(SECOND, strategy=Strategy.REJECT)))


async def two_sessions(bench: ClusterBench) -> None:
    """A session is let in at once whatever another does."""
    other = Prompt("o", session="other", earliest_s=0.5, latest_s=1.0)
    v, w = workers_of(bench, replace(FIRST, cleanup_s=TOO_SLOW_S), SECOND, other)
    await bench.over(v, w)
    (seen,) = (each for each in bench.served if each.prompt.session == "other")
    bench.world.check(seen.answer == "let in", "S6 isolation: another session is let in")


async def taker_leaves(bench: ClusterBench) -> None:
    """The client of the second leaves when its turn comes: it may never hear of its grant."""
    second = replace(SECOND, leaves_s=GRACE_S + POLL_S)
    v, w = workers_of(bench, replace(FIRST, cleanup_s=NEVER_S), second)
    u = bench.worker("u", Prompt("3", earliest_s=5.0, latest_s=5.0))
    await bench.over(v, w, u)


async def too_slow_cleanup(bench: ClusterBench) -> None:
    await bench.over(*workers_of(bench, replace(FIRST, cleanup_s=TOO_SLOW_S)))


SCENARIOS = (
    ClusterScenario(
        "alternating",
        "four prompts, by turns at two workers",
        alternating,
        ("all is over", "let in", "superseded", "refused: StreamSuperseded"),
    ),
    ClusterScenario(
        "stop_is_pressed",
        "a stream is stopped by name at another worker, and a message may be lost",
        stop_is_pressed,
        ("all is over", "cancelled", "a stop took effect", Trouble.MESSAGE_LOST.value),
        {"troubles": LOSSES},
    ),
    ClusterScenario(
        "stop_of_one_that_waits",
        "a stream that waits is stopped by name at another worker, and a message may be lost",
        stop_of_one_that_waits,
        (
            "refused: StreamCancelled",
            "a stop took effect",
            Trouble.MESSAGE_LOST.value,
        ),
        {"troubles": (Trouble.MESSAGE_LOST,)},
    ),
    ClusterScenario(
        "leaves_while_waiting",
        "who waits leaves, and a third one comes",
        leaves_while_waiting,
        ("all is over", "left while waiting", "superseded"),
    ),
    ClusterScenario(
        "worker_ends",
        "prompt 1's worker v is told to end, before or after a newer prompt comes",
        worker_ends,
        ("all is over", "a worker has ended", "let in"),
    ),
    ClusterScenario(
        "waiting_worker_ends",
        "the worker of a prompt that waits, or streams, is told to end",
        waiting_worker_ends,
        ("all is over", "a worker has ended", "refused: RegistryClosed"),
    ),
    ClusterScenario(
        "enqueued",
        "two prompts queue up at two workers, and a message may be lost",
        enqueued,
        ("all is over", "let in", Trouble.MESSAGE_LOST.value),
        {"troubles": (Trouble.MESSAGE_LOST,)},
    ),
    ClusterScenario(
        "rejected",
        "a prompt that is to be rejected finds its session held",
        rejected,
        ("all is over", "refused: SessionBusy"),
    ),
    ClusterScenario(
        "two_sessions",
        "a stream that does not stop holds up no other session",
        two_sessions,
        ("all is over", "took over"),
    ),
    ClusterScenario(
        "taker_leaves",
        "prompt 1 does not stop, prompt 2's client leaves as that is let in, the reply of which "
        "may be lost, and a third prompt comes",
        taker_leaves,
        ("all is over", "left while waiting", "upstream overlap, logged", Trouble.REPLY_LOST.value),
        {"troubles": (Trouble.REPLY_LOST,)},
    ),
    ClusterScenario(
        "grant_lost",
        "prompt 1 takes too long to stop, and the reply that lets prompt 2 in is lost",
        too_slow_cleanup,
        ("all is over", "took over", "upstream overlap, logged", Trouble.REPLY_LOST.value),
        {"troubles": (Trouble.REPLY_LOST,)},
    ),
)
