"""Two workers at a store, on a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from registry.lease_records import (
    LeaseLimits,
    Leave,
    Message,
    Poll,
    Register,
    Renew,
    Told,
    Word,
)
from server.stores.sqlite_store import SqliteStore
from server.stores.store import SessionStore

LIMITS = LeaseLimits()


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


async def hand_over(first: SessionStore, second: SessionStore) -> None:
    """A stream of one worker is superseded by one of another, and each is woken by a message."""
    to_first, to_second = first.messages(), second.messages()
    woken = asyncio.ensure_future(anext(to_first))
    wakes = asyncio.ensure_future(anext(to_second))
    # Who listens too late has to ask by itself, and does.
    await asyncio.sleep(0.2)
    granted = await first.ask(Register("s", "v/1"))
    assert granted.word is Word.GRANTED
    waiting = await second.ask(Register("s", "w/2"))
    assert waiting.word is Word.WAITING
    assert await woken == Message("v/1", Told.SUPERSEDED)
    token, ticket = granted.fencing_token, granted.ticket
    assert (await first.ask(Renew("s", "v/1", token, ticket, True))).word is Word.STOP
    assert (await first.ask(Leave("s", "v/1"))).word is Word.DONE
    assert await wakes == Message("w/2", Told.FREE)
    taken = await second.ask(Poll("s", "w/2", waiting.ticket))
    assert taken.word is Word.GRANTED
    assert taken.fencing_token > token
    assert (taken.left, taken.late) == ("v/1", ())


def run(program: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await program()

    asyncio.run(bounded())


def sqlite(path: Path, worker: str, clock: Clock, limits: LeaseLimits = LIMITS) -> SqliteStore:
    return SqliteStore(path / "onestream" / "sessions.sqlite", limits, worker, now_ms=clock)
