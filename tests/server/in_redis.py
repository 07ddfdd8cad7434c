"""Redis's store as a test drives it: its clock, its generation and its whole state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.attempts import as_text
from registry.lease_records import Answer, LeaseOperation, LeaseSnapshot, SessionRecord
from server.stores.redis_store import SCRIPT, RedisStore
from sim.bench.proving.lease_states import LIMITS
from tests.limits import HANGS_S
from tests.server.conformance import Driven, Moment


class InRedis(Driven):
    def __init__(self, address: str, script: str) -> None:
        self.moment = Moment()
        self.store = RedisStore(
            address,
            LIMITS,
            "w",
            script=script,
            call_s=HANGS_S,
            now_ms=lambda: self.moment.now_ms,
            generation=lambda: self.moment.generation,
        )

    async def answer(self, operation: LeaseOperation) -> Answer:
        return await self.store._answer(operation)

    async def queue(self, session: str) -> tuple[str, ...]:
        return await self.store.queue(session)

    async def read(self) -> LeaseSnapshot:
        return await self.store.snapshot()

    async def write(self, state: LeaseSnapshot) -> None:
        store = self.store
        pipeline = store._client.pipeline()
        pipeline.flushdb()
        counters = {
            "last": state.last,
            "generation": state.generation,
            "quarantine": state.quarantine_until_ms,
            "active": state.active_until_ms,
            "limits": state.limits_text,
        }
        pipeline.hset(store._key("counters"), mapping=counters)
        for name, record in state.sessions:
            pipeline.hset(store._session_key(name), mapping=_fields(record))
        for each in state.detached:
            member = f"{len(each.session.encode())}:{each.session}{each.stream}"
            pipeline.zadd(store._key("detached"), {member: each.seen_ms})
        for name, asked in state.asked:
            pipeline.set(store._asked_key(name), as_text(asked))
        await pipeline.execute()


def _fields(record: SessionRecord) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"left": record.left}
    if record.late:
        fields |= {"late": "\n".join(record.late), "late_ms": record.late_ms}
    holder = record.holder
    if holder is not None:
        fields |= {
            "holder": holder.stream,
            "token": holder.fencing_token,
            "ticket": holder.ticket,
            "until": holder.until_ms,
            "seen": holder.seen_ms,
            "closed": int(holder.closed),
            "overdue": int(holder.overdue),
        }
        if holder.stop_ms is not None and holder.why is not None:
            fields |= {"stop": holder.stop_ms, "why": holder.why.value}
    for each in record.waiting:
        fields[f"w:{each.stream}"] = f"{each.ticket} {each.seen_ms} {each.strategy.value}"
    return fields


@asynccontextmanager
async def in_redis(address: str, script: str = SCRIPT) -> AsyncIterator[InRedis]:
    driven = InRedis(address, script)
    try:
        yield driven
    finally:
        await driven.store.close()
