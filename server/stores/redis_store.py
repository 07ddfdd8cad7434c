"""Sessions in Valkey or Redis, from 7 on: for workers of several hosts.

The lease table is a script there (`lease.lua`), called by its digest: it runs whole in the server,
on the server's clock, and a client that stands still holds up nobody.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from registry import attempts
from registry.lease_records import (
    LATE_KEEP_MS,
    LATE_MAX,
    Answer,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Message,
    Renew,
    Reply,
    Told,
    Why,
    Word,
)
from registry.lease_table import LeaseTable
from registry.patience import PatientTimeout, late_by
from server.stores.redis_clients import RedisClients
from server.stores.redis_directory import RedisDirectory
from server.stores.redis_errors import RedisErrors, drops_keys
from server.stores.redis_records import (
    arguments,
    attempt_of,
    detached_of,
    record_of,
    streams_in,
    texts_of,
)
from server.stores.store import (
    RecordUnreadable,
    look,
    told_of,
)

SCRIPT = Path(__file__).with_name("lease.lua").read_text("utf-8")
VERSION_MIN = 7
# A call takes less than a millisecond; one that takes longer than this counts as lost. It is well
# below the lease, so that a renewal can be asked for several times.
CALL_S = 0.5
# Of CONNECTIONS_MAX: for streams that hold their sessions or leave, for those that ask for theirs;
# the rest is for what is told of streams besides.
_HOLDERS_MAX = 40
_ASKING_MAX = 16
# How often a connection that waits for messages is asked whether it still stands.
HEALTH_S = 5
# How long after its worker was last heard of a session is forgotten; more than any lease.
_LEFT_MS = 24 * 3600 * 1000
# Keys that are looked at by one request.
_SCAN = 500
# Before 2020 no clock was ever set.
_CLOCK_MIN_MS = 1_577_836_800_000
# What comes on the connection for messages.
_HEARD = ("subscribe", "message", "pong")
# Of a reply that is none.
_SHOWN_CHARS = 80


class RedisStore:
    def __init__(
        self,
        url: str,
        limits: LeaseLimits,
        worker: str,
        *,
        prefix: str = "onestream",
        call_s: float = CALL_S,
        health_s: float = HEALTH_S,
        script: str = SCRIPT,
        now_ms: Callable[[], int] | None = None,
        generation: Callable[[], str] | None = None,
    ) -> None:
        """now_ms, generation: instead of the server's, for tests."""
        self.address = without_secrets(url)
        self._limits = limits
        self._worker = worker
        # In braces: all keys of it are on one node of a cluster.
        self._prefix = f"{{{prefix}}}"
        self._health_s = health_s
        self._now_ms, self._generation = now_ms, generation
        self._clients = RedisClients(url, call_s)
        self._client, self._listener = self._clients.client, self._clients.listener
        self._script = self._client.register_script(script)
        self._call_s = call_s
        self._errors = RedisErrors(self.address, self._prefix, limits, call_s)
        self._turn_of_holders = asyncio.Semaphore(_HOLDERS_MAX)
        self._turn_of_asking = asyncio.Semaphore(_ASKING_MAX)

    @property
    def limits(self) -> LeaseLimits:
        return self._limits

    async def start(self) -> None:
        async with self._errors.asking():
            # Connects, which may take several requests by itself.
            await self._client.ping()
        async with self._errors.asking():
            info = await self._client.info()
        async with self._errors.asking():
            seconds, _ = await self._client.time()
        with self._errors.reading():
            self._check(info, seconds * 1000)
        async with self._errors.asking():
            # Nobody hears it. A user of an ACL has no channels unless they are given: the script
            # would write, and fail with the first stream that is to be told of its stop.
            await self._client.publish(self._channel(self._worker), "")
        await self._check_hears()
        await self.ask(look(self._worker))
        await self._forget_dead()

    async def _check_hears(self) -> None:
        """A user of an ACL may be allowed to publish, and not to subscribe."""
        async with self._errors.asking():
            # Connects, as above.
            await self._listener.ping()
        async with self._errors.asking(), self._listener.pubsub() as subscribed:
            await subscribed.subscribe(self._channel(self._worker))
            await subscribed.get_message(timeout=None)

    async def _forget_dead(self) -> None:
        """The sessions of workers that are gone for a day, and that nobody asks for again.

        No sooner: a worker that only stood still may have a call to Ollama, and who takes its
        session over logs that, which needs the record.
        No record of a session expires: a store that is short of memory would drop it early.
        """
        names = await self._names(self._session_key(""))
        async with self._errors.asking():
            seconds, micros = await self._client.time()
        now_ms = seconds * 1000 + micros // 1000 if self._now_ms is None else self._now_ms()
        for some in batched(names, _SCAN):
            async with self._errors.asking(), self._client.pipeline(transaction=False) as pipe:
                for name in some:
                    pipe.hget(self._session_key(name), "asked_ms")
                asked = await pipe.execute(raise_on_error=False)
            for name, at_ms in zip(some, asked, strict=True):
                # What is none of ours is in nobody's way: its session, if there is one, says so.
                is_ours = isinstance(at_ms, bytes) and at_ms.isdigit()
                if is_ours and int(at_ms) + _LEFT_MS <= now_ms:
                    # Who asks makes the table look.
                    with suppress(RecordUnreadable):
                        await self.ask(look(self._worker, name))

    async def ask(self, operation: LeaseOperation) -> Reply:
        async with self._turn(operation):
            return (await self._answer(operation)).reply

    @asynccontextmanager
    async def _turn(self, operation: LeaseOperation) -> AsyncIterator[None]:
        """A thousand streams renew at once, each for as long as its lease lasts.

        Who holds waits for its turn; that is no silence of the store. Whose client waits for an
        answer does not stand behind them, and is told soon where this worker does not get round
        to it.
        """
        if isinstance(operation, Renew | Leave):
            async with self._turn_of_holders:
                yield
            return
        turn = self._turn_of_asking
        if turn.locked():
            try:
                async with PatientTimeout(self._call_s):
                    await turn.acquire()
            except TimeoutError:
                raise self._errors.not_asked(_ASKING_MAX) from None
        else:
            await turn.acquire()
        try:
            yield
        finally:
            turn.release()

    async def _answer(self, operation: LeaseOperation) -> Answer:
        session = operation.session
        keys = [self._session_key(session), self._key("counters"), self._key("detached")]
        keys.append(self._asked_key(session))
        now = "" if self._now_ms is None else self._now_ms()
        generation = "" if self._generation is None else self._generation()
        args = [*arguments(operation), now, generation, self._channel(""), self._limits.text]
        args += attempt_of(operation)
        is_logged = isinstance(operation, Leave) and operation.logged
        args += [int(is_logged), LATE_KEEP_MS, LATE_MAX]
        async with self._errors.asking():
            got = await self._script(keys=keys, args=args)
        with self._errors.reading():
            return _answer_of(got)

    async def messages(self) -> AsyncIterator[Message]:
        with self._errors.translated():
            async with self._listener.pubsub() as subscribed:
                async with self._errors.asking():
                    await subscribed.subscribe(self._channel(self._worker))
                # The client's own health check sends a question, and never misses the reply.
                is_asked = was_late = False
                while True:
                    due = asyncio.get_running_loop().time() + self._health_s
                    with self._errors.reading():
                        each = await subscribed.get_message(timeout=self._health_s)
                        if each is not None and each["type"] not in _HEARD:
                            raise TypeError(f"{each['type']!a} where messages are heard")
                    if each is not None:
                        is_asked = was_late = False
                        if each["type"] == "message":
                            yield _message_of(each["data"])
                    elif is_asked and late_by(due) and not was_late:
                        # Its answer may have come while this process stood still.
                        was_late = True
                    elif is_asked:
                        raise self._errors.silent(2 * self._health_s)
                    else:
                        async with self._errors.asking():
                            await subscribed.ping("alive")
                        is_asked = True

    async def queue(self, session: str) -> tuple[str, ...]:
        async with self._errors.asking(), self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._session_key(session))
            pipe.hget(self._key("counters"), "quarantine")
            pipe.time()
            found = await pipe.execute()
        table = LeaseTable(self._limits)
        with self._errors.reading():
            fields, until_ms, (seconds, micros) = found
            table.quarantine_until_ms = int(until_ms or 0)
            if fields:
                table.sessions[session] = record_of(texts_of(fields))
        now_ms = seconds * 1000 + micros // 1000
        return table.queue(session, now_ms if self._now_ms is None else self._now_ms())

    async def snapshot(self) -> LeaseSnapshot:
        sessions, asked = {}, {}
        for name in await self._names(self._session_key("")):
            async with self._errors.asking():
                fields = texts_of(await self._client.hgetall(self._session_key(name)))
            sessions[name] = record_of(fields)
        for name in await self._names(self._asked_key("")):
            async with self._errors.asking():
                text: Any = await self._client.get(self._asked_key(name))
            asked[name] = attempts.from_text(text.decode())
        async with self._errors.asking():
            counters = texts_of(await self._client.hgetall(self._key("counters")))
        async with self._errors.asking():
            members: Any = await self._client.zrange(self._key("detached"), 0, -1, withscores=True)
        detached = [detached_of(member.decode(), int(score)) for member, score in members]
        return LeaseSnapshot(
            tuple(sorted(sessions.items())),
            tuple(sorted(detached, key=lambda each: (each.session, each.stream))),
            int(counters.get("last", 0)),
            counters.get("generation", ""),
            int(counters.get("quarantine", 0)),
            int(counters.get("active", 0)),
            counters.get("limits", self._limits.text),
            tuple(sorted(asked.items())),
        )

    @property
    def directory(self) -> RedisDirectory:
        return RedisDirectory(self._client, self._key, self._channel, self._errors)

    async def close(self) -> None:
        with suppress(RedisError, OSError):
            await self._clients.close()

    # -- names

    async def _names(self, begin: str) -> list[str]:
        """What follows `begin` in the keys that begin so, each once."""
        names: dict[str, None] = {}
        cursor = 0
        while True:
            async with self._errors.asking():
                found: Any = await self._client.scan(cursor, match=f"{_glob(begin)}*", count=_SCAN)
            cursor, keys = found
            texts = (key.decode("utf-8", "replace") for key in keys)
            names.update(dict.fromkeys(text.removeprefix(begin) for text in texts))
            if not cursor:
                return list(names)

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _session_key(self, session: str) -> str:
        return self._key(f"session:{session}")

    def _asked_key(self, session: str) -> str:
        return self._key(f"asked:{session}")

    def _channel(self, worker: str) -> str:
        return self._key(f"worker:{worker}")

    # -- what the promise rests on

    def _check(self, info: dict[str, Any], now_ms: int) -> None:
        found = str(info.get("valkey_version") or info.get("redis_version") or "unknown")
        # Some that speak its protocol have a version of another form, or none.
        major = re.match(r"\d+", str(info.get("redis_version")))
        if major is None or int(major[0]) < VERSION_MIN:
            raise self._errors.refused(
                f"is version {found}; sessions need Valkey, or Redis from {VERSION_MIN} on"
            )
        if info.get("role", "master") != "master":
            raise self._errors.refused("is a replica, which takes no writes; name the primary")
        if info.get("cluster_enabled"):
            raise self._errors.refused(
                "is a node of a cluster, which is not supported; name a single server"
            )
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if info.get("maxmemory") and policy.startswith("allkeys-"):
            raise self._errors.refused(drops_keys(policy))
        if now_ms < _CLOCK_MIN_MS:
            raise self._errors.refused(
                f"has a clock that was never set ({now_ms} ms since 1970); set it"
            )


def _answer_of(got: Any) -> Answer:
    """Raises ValueError for words of another release, TypeError for what no script of ours says."""
    match got:
        case [
            bytes(word),
            int(ticket),
            int(fencing_token),
            int(wait_ms),
            bytes(why),
            bytes(left),
            bytes(late),
            bytes(first),
            bytes(newer),
            *said,
        ]:
            pass
        case _:
            raise TypeError(f"{ascii(got)[:_SHOWN_CHARS]} in answer to the script")
    reply = Reply(
        Word(word.decode()),
        ticket,
        fencing_token,
        wait_ms,
        Why(why.decode()) if why else None,
        left.decode(),
        streams_in(late.decode()),
        first.decode(),
        newer.decode(),
    )
    # The script has sent them.
    texts = [each.decode() for each in said]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return Answer(reply, tuple(Message(stream, Told(told)) for stream, told in pairs))


def _message_of(data: bytes) -> Message:
    """Anybody may have sent it: what names no stream of this worker wakes nobody."""
    told, _, stream = data.decode("utf-8", "replace").partition(" ")
    return Message(stream, told_of(told))


def batched(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """As itertools.batched, which came with Python 3.12."""
    left = iter(names)
    while some := list(islice(left, size)):
        yield some


def without_secrets(url: str) -> str:
    """The address, for log lines: no user, no password."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{'…@' if at else ''}{host}{parts.path}"


def _glob(text: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)
