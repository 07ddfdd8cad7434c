"""Prompts of one session at two workers, where messages are lost and workers end or stand still."""

from __future__ import annotations

from dataclasses import replace

from sim.bench.harness.cluster_bench import (
    LIMITS,
    LOSSES,
    ClusterBench,
    Trouble,
)
from sim.bench.harness.cluster_worker import Prompt, Worker
from sim.bench.scenarios.cluster_level.story import ClusterScenario

# Longer than a lease with its margin, so that who stands still for so long has lost it.
LONG_S = 5.0
# Shorter than the grace, and longer.
SLOW_S, TOO_SLOW_S = 1.0, 4.0
# Longer than the grace and two leases.
NEVER_S = 12.0

# Streams until it is stopped.
FIRST = Prompt("1", earliest_s=0.0, latest_s=0.0, life_s=60.0)
SECOND = Prompt("2")
# When a lease is about to end that nobody renews.
LATE = Prompt("2", earliest_s=2.5, latest_s=2.5, life_s=3.0)
SOON = Prompt("2", life_s=3.0)
THIRD = Prompt("3", earliest_s=0.5, latest_s=1.0)


def workers_of(
    bench: ClusterBench, first: Prompt = FIRST, *later: Prompt, rate: float = 1.0
) -> tuple[Worker, Worker]:
    """The first prompt comes to v, whose clock has that rate, the later ones to w."""
    v = bench.worker("v", first, rate=rate, offset_s=1000.0)
    return v, bench.worker("w", *(later or (SECOND,)))


async def two_prompts(bench: ClusterBench) -> None:
    await bench.over(*workers_of(bench))


def soon_or_late_of(bench: ClusterBench, rate: float = 1.0) -> tuple[Worker, Worker]:
    second = bench.world.choose("prompt 2 comes", (LATE, SOON))
    return workers_of(bench, FIRST, second, rate=rate)


async def soon_or_late(bench: ClusterBench) -> None:
    await bench.over(*soon_or_late_of(bench))


async def three_prompts(bench: ClusterBench) -> None:
    await bench.over(*workers_of(bench, FIRST, SECOND, THIRD))


async def repetition(bench: ClusterBench) -> None:
    """The library of the first prompt's client sends it again, to a third worker."""
    first, second = replace(FIRST, asks="a"), replace(SECOND, asks="b", life_s=1.0)
    again = Prompt("1 again", earliest_s=1.0, latest_s=3.0, asks="a", is_repetition=True)
    v, w = workers_of(bench, first, second)
    await bench.over(v, w, bench.worker("u", again))


async def slow_cleanup(bench: ClusterBench) -> None:
    first = replace(FIRST, cleanup_s=SLOW_S)
    await bench.over(*workers_of(bench, first, SECOND, THIRD))


async def too_slow_cleanup(bench: ClusterBench) -> None:
    await bench.over(*workers_of(bench, replace(FIRST, cleanup_s=TOO_SLOW_S)))


async def crash(bench: ClusterBench) -> None:
    v, w = workers_of(bench)
    v.process.may_crash()
    await v.process.ended()
    await bench.over(w)


async def crash_while_three(bench: ClusterBench) -> None:
    v, w = workers_of(bench, FIRST, SECOND, THIRD)
    v.process.may_crash()
    await v.process.ended()
    await bench.over(w)


async def waiting_one_crashes(bench: ClusterBench) -> None:
    """The newest prompt's worker ends while it waits, or after it was let in."""
    v, w = workers_of(bench, replace(FIRST, cleanup_s=SLOW_S), SECOND)
    u = bench.worker("u", THIRD)
    w.process.may_crash()
    await w.process.ended()
    await bench.over(v, u)


async def restart(bench: ClusterBench) -> None:
    """A prompt of its own that is still to come comes to the worker that was started anew."""
    again = replace(SECOND, name="3", earliest_s=1.0, latest_s=1.0)
    v = bench.worker("v", FIRST, again)
    w = bench.worker("w", SECOND)
    v.process.may_crash(restart_s=0.5)
    await bench.over(v, w)


async def pause(bench: ClusterBench) -> None:
    v, w = soon_or_late_of(bench)
    bench.may_pause(v, LONG_S)
    await bench.over(v, w)


async def slow_clock_pause(bench: ClusterBench) -> None:
    v, w = soon_or_late_of(bench, rate=0.95)
    bench.may_pause(v, LONG_S)
    await bench.over(v, w)


async def waiting_one_is_paused(bench: ClusterBench) -> None:
    v, w = workers_of(bench, FIRST, SECOND)
    u = bench.worker("u", THIRD)
    bench.may_pause(w, LONG_S)
    await bench.over(v, w, u)


async def taker_is_paused(bench: ClusterBench) -> None:
    """Who took over may stand still before it logs that; the first one still works upstream."""
    v, w = workers_of(bench, replace(FIRST, cleanup_s=NEVER_S), SECOND)
    u = bench.worker("u", Prompt("3", earliest_s=4.0, latest_s=4.0))
    bench.may_pause(w, LONG_S)
    await bench.over(v, w, u)


async def short_freeze(bench: ClusterBench) -> None:
    """A virtual machine stands still for less than the margin."""
    v, w = workers_of(bench)
    bench.may_freeze(v, 0.25)
    await bench.over(v, w)


async def slow_clock_partition(bench: ClusterBench) -> None:
    await bench.over(*soon_or_late_of(bench, rate=0.95))


async def fast_clock_partition(bench: ClusterBench) -> None:
    await bench.over(*soon_or_late_of(bench, rate=1.05))


async def much_slower_clock(bench: ClusterBench) -> None:
    await bench.over(*soon_or_late_of(bench, rate=0.8))


async def long_freeze(bench: ClusterBench) -> None:
    v, w = workers_of(bench)
    bench.may_freeze(v, LONG_S)
    await bench.over(v, w)


_OVER = ("all is over", "let in")
_STOPPED = (*_OVER, "superseded")
SPLIT = {
    "troubles": (Trouble.SPLIT_BRAIN,),
    "lag_s": 1.0,
    "limits": replace(LIMITS, lag_ms=1000),
}

SCENARIOS = (
    ClusterScenario("two_prompts", "a newer prompt at another worker", two_prompts, _STOPPED),
    ClusterScenario(
        "three_prompts",
        "three prompts at two workers",
        three_prompts,
        (*_STOPPED, "refused: StreamSuperseded"),
    ),
    ClusterScenario(
        "repetition",
        "a library sends the first prompt again, to a third worker, once a newer one came",
        repetition,
        (*_STOPPED, "refused: Repetition"),
    ),
    ClusterScenario(
        "slow_cleanup",
        "prompt 1 takes a second to stop, and two newer prompts come",
        slow_cleanup,
        (*_STOPPED, "refused: StreamSuperseded"),
    ),
    ClusterScenario(
        "too_slow_cleanup",
        "prompt 1 takes longer to stop than the grace",
        too_slow_cleanup,
        (*_STOPPED, "took over", "upstream overlap, logged"),
    ),
    ClusterScenario(
        "messages_lost",
        "a request, a reply or a message of the store is lost",
        two_prompts,
        (*_STOPPED, *(each.value for each in LOSSES), "refused: SessionsUnavailable"),
        {"troubles": LOSSES},
    ),
    ClusterScenario(
        "three_prompts_messages_lost",
        "a request, a reply or a message of the store is lost, and there are three prompts",
        three_prompts,
        (*_STOPPED, *(each.value for each in LOSSES), "refused: StreamSuperseded"),
        {"troubles": LOSSES},
    ),
    ClusterScenario(
        "slow_reply",
        "a reply takes as long as it may",
        two_prompts,
        (*_STOPPED, Trouble.REPLY_SLOW.value),
        {"troubles": (Trouble.REPLY_SLOW,)},
    ),
    ClusterScenario(
        "crash",
        "prompt 1's worker v ends before any of its steps",
        crash,
        (*_STOPPED, "took over"),
    ),
    ClusterScenario(
        "crash_while_three",
        "prompt 1's worker v ends before any of its steps, and there are three prompts",
        crash_while_three,
        (*_STOPPED, "took over", "refused: StreamSuperseded"),
    ),
    ClusterScenario(
        "waiting_one_crashes",
        "the worker of a prompt that waits ends before any of its steps, and a third one comes",
        waiting_one_crashes,
        _STOPPED,
    ),
    ClusterScenario(
        "restart",
        "prompt 1's worker v ends before any of its steps and is started anew",
        restart,
        (*_STOPPED, "took over", "started anew"),
    ),
    ClusterScenario(
        "pause",
        "prompt 1's worker v is paused for longer than its lease, and its clock goes on",
        pause,
        (*_STOPPED, "took over", "lost"),
    ),
    ClusterScenario(
        "slow_clock_pause",
        "prompt 1's worker v is paused for longer than its lease, and its clock goes on, 5 % slow",
        slow_clock_pause,
        (*_STOPPED, "took over", "lost"),
    ),
    ClusterScenario(
        "waiting_one_is_paused",
        "the worker of a prompt that waits stands still, and a third one comes",
        waiting_one_is_paused,
        (*_STOPPED, "refused: StreamSuperseded"),
    ),
    ClusterScenario(
        "taker_is_paused",
        "prompt 1 does not stop, prompt 2's worker w is paused, and a third prompt comes",
        taker_is_paused,
        (*_STOPPED, "took over", "lost", "upstream overlap, logged"),
    ),
    ClusterScenario(
        "short_freeze",
        "the host of prompt 1's worker v is frozen, with its clock, for less than the margin",
        short_freeze,
        _STOPPED,
    ),
    ClusterScenario(
        "partition",
        "prompt 1's worker v is cut off from the store",
        soon_or_late,
        (*_STOPPED, "took over", "lost", Trouble.PARTITION.value),
        {"troubles": (Trouble.PARTITION,)},
    ),
    ClusterScenario(
        "slow_clock_partition",
        "prompt 1's worker v, whose clock is 5 % slow, is cut off from the store",
        slow_clock_partition,
        (*_STOPPED, "took over", "lost", Trouble.PARTITION.value),
        {"troubles": (Trouble.PARTITION,)},
    ),
    ClusterScenario(
        "fast_clock_partition",
        "prompt 1's worker v, whose clock is 5 % fast, is cut off from the store",
        fast_clock_partition,
        (*_STOPPED, "took over", "lost", Trouble.PARTITION.value),
        {"troubles": (Trouble.PARTITION,)},
    ),
    ClusterScenario(
        "partition_heals",
        "prompt 1's worker v is cut off from the store for 4 s",
        soon_or_late,
        (*_STOPPED, "took over", "lost", Trouble.PARTITION.value),
        {"troubles": (Trouble.PARTITION,), "heals_s": 4.0},
    ),
    ClusterScenario(
        "newcomer_cut_off",
        "prompt 2's worker w is cut off from the store",
        two_prompts,
        (*_OVER, "refused: SessionsUnavailable", Trouble.PARTITION.value),
        {"troubles": (Trouble.PARTITION,), "cut_off": "w"},
    ),
    ClusterScenario(
        "fail_over",
        "a replica takes over that lacks up to three writes",
        two_prompts,
        (*_STOPPED, Trouble.FAIL_OVER.value),
        {"troubles": (Trouble.FAIL_OVER,)},
    ),
    ClusterScenario(
        "fail_over_while_three",
        "a replica takes over that lacks up to three writes, and there are three prompts",
        three_prompts,
        (*_STOPPED, Trouble.FAIL_OVER.value, "refused: StreamSuperseded"),
        {"troubles": (Trouble.FAIL_OVER,)},
    ),
    ClusterScenario(
        "split_brain",
        "a replica takes over that lacks up to three writes, and the old primary answers "
        "prompt 1's worker v for another second",
        soon_or_late,
        (*_STOPPED, Trouble.SPLIT_BRAIN.value),
        SPLIT,
    ),
)

LIMITS_SHOWN = (
    ClusterScenario(
        "limit_slow_clock",
        "the clock of the first worker is 20 % slow, and it is cut off",
        much_slower_clock,
        (),
        {"troubles": (Trouble.PARTITION,)},
        limit="A1: rates of clocks differ by no more than the margin allows within a lease",
        strategy="states",
    ),
    ClusterScenario(
        "limit_clock_set_forward",
        "the store's clock is set forward by more than a lease",
        two_prompts,
        (),
        {"troubles": (Trouble.CLOCK_STEPS,)},
        limit="A2: the store's clock is not set forward by more than the margin",
        strategy="states",
    ),
    ClusterScenario(
        "limit_lag",
        "the old primary answers for a second longer than the quarantine allows for",
        two_prompts,
        (),
        {"troubles": (Trouble.SPLIT_BRAIN,), "lag_s": 1.0},
        limit="A3: a primary that was replaced refuses within its lag",
        strategy="states",
    ),
    ClusterScenario(
        "limit_freeze",
        "the host of prompt 1's worker v is frozen, with its clock, for longer than its lease",
        long_freeze,
        (),
        limit="A4: the clock of a worker does not stand while others go on",
        strategy="states",
    ),
    ClusterScenario(
        "limit_eviction",
        "the store drops the record of a session",
        two_prompts,
        (),
        {"troubles": (Trouble.EVICTION,)},
        limit="A5: no record is evicted",
        strategy="states",
    ),
)
