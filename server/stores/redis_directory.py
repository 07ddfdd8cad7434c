"""The streams of all workers in Valkey or Redis, next to the sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis

from registry.lease_records import Message
from server.stores.directory import Entry, Seen, entry_of
from server.stores.redis_errors import RedisErrors
from server.stores.store import worker_of

# A running stream is described anew long before; what a dead worker has left goes by then.
_RUNNING_MS = 24 * 3600 * 1000


class RedisDirectory:
    """key: of a name, with the store's prefix; channel: of a worker."""

    def __init__(
        self,
        client: Redis,
        key: Callable[[str], str],
        channel: Callable[[str], str],
        errors: RedisErrors,
    ) -> None:
        self._client = client
        self._key = key
        self._channel = channel
        self._errors = errors

    async def describe(self, entry: Entry, *, keep_ms: int, ended_max: int) -> None:
        running, ended = self._running(entry.owner), self._ended(entry.owner)
        kept_ms = keep_ms if entry.ended else _RUNNING_MS
        async with self._errors.asking(), self._client.pipeline(transaction=True) as pipe:
            text = json.dumps(asdict(entry))
            pipe.set(self._stream(entry.owner, entry.trace_id), text, px=max(kept_ms, 1))
            if entry.ended:
                pipe.zrem(running, entry.trace_id)
                pipe.zadd(ended, {entry.trace_id: entry.at_ms})
                pipe.pexpire(ended, max(keep_ms, 1))
                pipe.zrange(ended, 0, -ended_max - 1)
                pipe.zremrangebyrank(ended, 0, -ended_max - 1)
            else:
                pipe.zadd(running, {entry.trace_id: entry.at_ms})
                pipe.pexpire(running, _RUNNING_MS)
            results: list[Any] = await pipe.execute()
        if entry.ended and results[4]:
            with self._errors.reading():
                names = [self._stream(entry.owner, each.decode()) for each in results[4]]
            async with self._errors.asking():
                await self._client.delete(*names)

    async def described(self, owner: str) -> list[Entry]:
        async with self._errors.asking(), self._client.pipeline(transaction=False) as pipe:
            pipe.zrange(self._running(owner), 0, -1)
            pipe.zrange(self._ended(owner), 0, -1)
            running, ended = await pipe.execute()
        with self._errors.reading():
            trace_ids = [each.decode() for each in (*running, *ended)]
        found = await self.found(owner, trace_ids)
        kept = {each.trace_id for each in found}
        if gone := [each for each in trace_ids if each not in kept]:
            async with self._errors.asking(), self._client.pipeline(transaction=False) as pipe:
                pipe.zrem(self._running(owner), *gone)
                pipe.zrem(self._ended(owner), *gone)
                await pipe.execute()
        return sorted(found, key=lambda each: (-each.at_ms, each.trace_id))

    async def found(self, owner: str, trace_ids: Sequence[str]) -> list[Entry]:
        if not trace_ids:
            return []
        async with self._errors.asking():
            texts = await self._client.mget([self._stream(owner, each) for each in trace_ids])
        with self._errors.reading():
            return [
                entry_of(owner, trace_id, text)
                for trace_id, text in zip(trace_ids, texts, strict=True)
                if text is not None
            ]

    async def be_seen(self, worker: str, within_ms: int) -> Seen:
        async with self._errors.asking(), self._client.pipeline(transaction=False) as pipe:
            pipe.set(self._key(f"seen:{worker}"), 1, px=within_ms, get=True)
            pipe.hget(self._key("counters"), "quarantine")
            pipe.time()
            found = await pipe.execute()
        with self._errors.reading():
            known, until_ms, (seconds, micros) = found
            now_ms = seconds * 1000 + micros // 1000
            return Seen(known is not None, max(0, int(until_ms or 0) - now_ms), now_ms)

    async def is_seen(self, worker: str) -> bool:
        async with self._errors.asking():
            return bool(await self._client.exists(self._key(f"seen:{worker}")))

    async def tell(self, message: Message) -> None:
        async with self._errors.asking():
            channel = self._channel(worker_of(message.stream))
            await self._client.publish(channel, f"{message.told.value} {message.stream}")

    def _stream(self, owner: str, trace_id: str) -> str:
        return self._key(f"stream:{owner}:{trace_id}")

    def _running(self, owner: str) -> str:
        return self._key(f"running:{owner}")

    def _ended(self, owner: str) -> str:
        return self._key(f"ended:{owner}")
