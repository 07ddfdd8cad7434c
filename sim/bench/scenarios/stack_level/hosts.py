"""What befalls processes and what lies between them: crashes, pauses, a lost power, a partition.

Each is a fault, of which an execution has one: before any step of a process, or in place of any
message. Afterwards who asks again is answered, and nothing is left of before.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sim.bench.harness.stack_bench import OLLAMAS_NAME, QUIET_S
from sim.bench.harness.stack_hosts import SERVER, HostsBench
from sim.bench.scenarios.stack_level.sessions import SHORT
from sim.bench.scenarios.stack_level.story import HostsDefinition

BACK_S = 1.0
# Longer than the limits of silence and of a connect, which a machine without power does not refuse.
POWER_BACK_S = 5.0
# Longer than the limits of silence.
LONG_S = 8.0
LIMITS = {"connect_seconds": 1.0, "first_chunk_seconds": 3.0, "stream_inactivity_seconds": 2.0}
NOTHING_LEFT = "nothing is left at Ollama of a server that is gone"
SHORT_CUT = "a partition that is shorter than the limits of silence loses nothing"
ITS_ERROR = "the error is Ollama's"
OLLAMAS_FAULT = ("cut", "upstream_unreachable", "upstream_silent")


async def ollama_crashes(bench: HostsBench) -> None:
    """Its process crashes and starts anew; who streams is told, and who comes later is served."""
    bench.ollama.may_crash(restart_s=BACK_S)
    await _told_or_answered(bench)


async def ollama_loses_power(bench: HostsBench) -> None:
    """Its machine crashes and starts anew; nobody says so, and the limits of silence find it."""
    bench.ollama_host.may_crash(restart_s=POWER_BACK_S)
    await _told_or_answered(bench)


async def parted_for_long(bench: HostsBench) -> None:
    bench.world.network.may_part(SERVER, OLLAMAS_NAME, for_s=LONG_S)
    await _told_or_answered(bench)


async def parted_shortly(bench: HostsBench) -> None:
    """What is on its way arrives once they are together again."""
    bench.world.network.may_part(SERVER, OLLAMAS_NAME, for_s=0.5)
    # With the time that it is cut off, less than any of the limits.
    bench.world.network.late_max_s = 0.1
    p1 = await bench.post("p1")
    await bench.over(p1)
    is_answered = p1.status == 200 and p1.error_code is None
    bench.world.check(is_answered, SHORT_CUT, f"{p1.status} {p1.body!r}")
    bench.world.reached("p1 was answered")


async def _told_or_answered(bench: HostsBench) -> None:
    p1 = await bench.post("p1")
    await bench.over(p1)
    code = p1.error_code
    bench.world.check(code in (None, *OLLAMAS_FAULT), ITS_ERROR, f"{p1.body!r}")
    bench.world.reached(f"p1: {code}")
    await bench.asked_until_answered("p2")


async def server_crashes(bench: HostsBench) -> None:
    """Its process crashes and starts anew: Ollama is free of it, and clients are served again."""
    bench.clients_may_be_cut = True
    bench.server.may_crash(restart_s=BACK_S)
    p1 = await bench.post("p1")
    await bench.over(p1)
    bench.world.reached("p1 was lost" if p1.has_failed else "p1 was answered")
    await bench.asked_until_answered("p2", model="fake:normal")
    await asyncio.sleep(QUIET_S)
    bench.world.check(not bench.fake.slots_taken("fake:normal"), NOTHING_LEFT)


async def terminated(bench: HostsBench) -> None:
    """SIGTERM to the server's process while Ollama crashes."""
    bench.ollama.may_crash()
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await bench.terminate(earliest=0.2, latest=0.8)
    await bench.over(p1)
    bench.world.reached(f"p1: {p1.error_code}")


async def paused(bench: HostsBench) -> None:
    """The server's process stands still for longer than its limits (SIGSTOP, a laptop's lid)."""
    bench.may_pause(LONG_S)
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", earliest=0.2, latest=0.5)
    await bench.over(p1, p2)
    bench.world.reached(f"p1: {p1.error_code}")
    newest = bench.newest_of(p1, p2)
    is_answered = newest.error_code is None
    bench.world.check(is_answered, "a server that stood still blames nobody", f"{newest.body!r}")
    await bench.asked_until_answered("p3")


BENCH = {"profile": replace(SHORT, load_s=0.1, chunk_s=0.1)}

DEFINITIONS = (
    HostsDefinition(
        "hosts.ollama_crashes",
        "Ollama's process crashes anywhere, and starts anew",
        ollama_crashes,
        ("p1: None", "p1: cut", "p1: upstream_unreachable"),
        settings=LIMITS,
        bench=BENCH,
    ),
    HostsDefinition(
        "hosts.ollama_loses_power",
        "Ollama's machine loses its power anywhere, and starts anew",
        ollama_loses_power,
        ("p1: None", "p1: upstream_silent", "p2 was told upstream_unreachable"),
        clients=("async",),
        settings=LIMITS,
        bench=BENCH,
    ),
    HostsDefinition(
        "hosts.parted_for_long",
        "the server and Ollama are cut off from one another for long",
        parted_for_long,
        ("p1: None", "p1: upstream_silent", "p1: upstream_unreachable"),
        settings=LIMITS,
        bench=BENCH,
    ),
    HostsDefinition(
        "hosts.parted_shortly",
        "the server and Ollama are cut off from one another for a moment",
        parted_shortly,
        ("p1 was answered",),
        settings=LIMITS,
        bench=BENCH,
    ),
    HostsDefinition(
        "hosts.server_crashes",
        "the server's process crashes anywhere, and starts anew",
        server_crashes,
        ("p1 was lost", "p1 was answered"),
        settings=LIMITS,
        bench=BENCH,
    ),
    HostsDefinition(
        "hosts.terminated",
        "SIGTERM to the server's process, while Ollama crashes",
        terminated,
        ("p1: shutting_down",),
        clients=("async",),
        settings=LIMITS,
        bench=BENCH,
    ),
    HostsDefinition(
        "hosts.paused",
        "the server's process stands still for longer than its limits",
        paused,
        ("p1: superseded",),
        clients=("async",),
        settings=LIMITS,
        bench=BENCH,
    ),
)
