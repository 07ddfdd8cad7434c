"""Workers of two releases take turns at one Valkey, as while one after the other is replaced."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from registry.errors import IllegalOperation
from registry.lease_invariants import PREDICATES, LeaseStep
from registry.lease_table import LeaseTable
from server.stores.redis_store import SCRIPT
from sim.bench.proving.lease_states import LIMITS
from tests.server import valkey_server
from tests.server.conformance import Moment, history
from tests.server.in_redis import InRedis, in_redis

pytestmark = [pytest.mark.socket, pytest.mark.once]

# The script of the release that named one late stream, and only to who takes its place. Its reply
# says so in two fields that nobody reads here.
BEFORE = (
    Path(__file__)
    .with_name("lease_before_late.lua")
    .read_text("utf-8")
    .replace("reply.finished and 1 or 0", "''")
)
# That release drops what this one keeps of streams that were late.
JUDGED = {name: holds for name, holds in PREDICATES.items() if name != "S3 named_on"}


async def steps_of(seed: int, stores: tuple[InRedis, InRedis], length: int) -> int:
    """How many steps were judged: operations of either script, by chance, on what was left."""
    chance, moment = random.Random(seed), Moment()
    for store in stores:
        store.moment = moment
    table, judged = LeaseTable(LIMITS, generation="g"), 0
    await stores[0].write(table.snapshot())
    for operation in history(chance, table, moment, length):
        store = chance.choice(stores)
        before = await store.read()
        try:
            answer = await store.answer(operation)
        except IllegalOperation:
            continue
        after = await store.read()
        table.restore(after)
        step = LeaseStep(before, operation, moment.now_ms, moment.generation, answer, after, LIMITS)
        broken = [name for name, holds in JUDGED.items() if not holds(step)]
        assert not broken, (broken, seed, step)
        judged += 1
    return judged


@pytest.mark.parametrize(
    "seeds", [pytest.param(2, id="two"), pytest.param(20, id="many", marks=pytest.mark.thorough)]
)
def test_an_operation_of_either_release_keeps_the_properties(seeds: int) -> None:
    """On what the other has written, in random histories; nothing is lost."""

    async def program(address: str) -> None:
        async with in_redis(address, SCRIPT) as new, in_redis(address, BEFORE) as old:
            for seed in range(seeds):
                assert await steps_of(seed, (new, old), 200) > 100

    with valkey_server.running() as address:
        asyncio.run(program(address))
