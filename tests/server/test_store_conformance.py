"""Each store does what the lease table does: replies, messages and records are the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.stores.redis_store import SCRIPT
from server.stores.store import StoreUnreachable
from tests.server import valkey_server
from tests.server.conformance import (
    Differs,
    Driven,
    histories_agree,
    rows_agree,
)
from tests.server.in_redis import in_redis
from tests.server.in_sqlite import InSqlite

pytestmark = [pytest.mark.socket, pytest.mark.once]


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with valkey_server.running() as address:
        yield address


# Random histories, of a hundred operations each.
histories = pytest.mark.parametrize(
    "seeds", [pytest.param(1, id="one"), pytest.param(8, id="many", marks=pytest.mark.thorough)]
)


async def check(store: Driven, seeds: int = 4) -> None:
    await rows_agree(store)
    await histories_agree(store, seeds=seeds, length=100)


@histories
def test_sqlite_agrees_with_the_table(tmp_path: Path, seeds: int) -> None:
    """In every row, and in random histories."""

    async def program() -> None:
        store = InSqlite(tmp_path)
        await check(store, seeds)
        await store.store.close()

    asyncio.run(program())


@histories
def test_valkey_or_redis_agrees_with_the_table(valkey: str, seeds: int) -> None:
    """In every row, and in random histories: the script is the table."""

    async def program() -> None:
        async with in_redis(valkey) as store:
            await check(store, seeds)

    asyncio.run(program())


# What is replaced in the script, and by what.
MUTANTS = {
    "repetition not refused": (
        "if first then return answer('repeated'",
        "if false then return answer('repeated'",
    ),
    "repetition of who is there": (
        "if not there and each.digest == digest then",
        "if each.digest == digest then",
    ),
    "new rank of a repetition": (
        "first.stream, first.over_at = me, nil\n    return nil",
        "first = nil",
    ),
    "prompt not protected": ("if there then newest = each end", ""),
    "typed again is refused": ("(newest.digest == digest and not repeats)", "false"),
    "who stops nobody is refused": ("strategy ~= 'interrupt' or (newest", "(newest"),
    "register asked again is judged": ("if each.stream == me then return nil end", ""),
    "whole answer kept": ("if each.stream ~= me or not whole then kept", "if true then kept"),
    "prompts without limit": ("if #asked > asked_max then table.remove(asked, 1) end", ""),
    "prompt never forgotten": ("now - each.over_at <= repeat_for", "true"),
    "silence of the dead": (
        "and not is_there(each.stream) then each.over_at = now end",
        "and false then end",
    ),
    "margin forgotten": ("return holder.till + margin", "return holder.till"),
    "grace not asked": ("if holder.closed then return holder.stop + grace end", ""),
    "quarantine without the lag": (
        "local quarantine_lasts = over + lag",
        "local quarantine_lasts = over",
    ),
    "forgotten numbers given again": ("last = math.max(last, now + margin)", ""),
    "generation not asked": ("if kept[2] ~= generation then", "if false then"),
    "quarantine keeps nobody out": ("if is_quarantined or not is_first", "if not is_first"),
    "not the first is let in": ("if is_quarantined or not is_first", "if is_quarantined"),
    "stop extends": ("if named == 'holds_stopped' then return keep_stopping() end", ""),
    "stop is given again": (
        "if holder and not holder.stop then stop_holder('superseded') end\n      empty",
        "if holder then stop_holder('superseded') end\n      empty",
    ),
    "newer stops nobody": (
        "if holder and not holder.stop then stop_holder('superseded') end\n      empty",
        "empty",
    ),
    "overtaken not told": ("elseif each.stream ~= me then tell(each.stream, told) end", "end"),
    "holder not told": ("tell(holder.stream, why)", ""),
    "next not told": ("tell(waiting[1].stream, 'free')", ""),
    "token without the clock": ("last = math.max(last + 1, now)", "last = last + 1"),
    "order of tickets lost": ("a.ticket < b.ticket", "a.ticket > b.ticket"),
    "the living are dropped": ("now >= seen + over and", "now >= seen + over - 1 and"),
    "the dead are counted": ("if is_dead(seen) then", "if false then"),
    "late holder not counted": ("count_as_detached(holder.stream, holder.seen)", ""),
    "limit in all not asked": ("and detached_all < detached_max", ""),
    "limit of the session not asked": ("detached_here < detached_per_session_max and", ""),
    "queue without limit": (
        "and enqueued() >= queue_max then return answer('full')",
        "and false then return answer('full')",
    ),
    "held again outside of the quarantine": (
        "  if is_quarantined then\n    if not holder",
        "  if true then\n    if not holder",
    ),
    "older lease comes back": ("if not holder or holder.token < given_token then", "if true then"),
    "waits again though overtaken": (
        "if each.ticket > given_ticket and each.strategy == 'interrupt' then return false end",
        "",
    ),
    "session of the same beginning": ("string.format('%d:%s', #session, session)", "session"),
    "clock set back": (
        "math.min(tonumber(fields['until']), now + lease)",
        "tonumber(fields['until'])",
    ),
    "lease not extended": ("holder.till, holder.seen = new_until(), now", "holder.seen = now"),
    "left forgotten": ("left = #waiting > 0 and me or ''", "left = ''"),
    "idle session kept": ("if not holder and #waiting == 0 and #late == 0 then return end", ""),
    "what is to be logged is dropped": ("#waiting == 0 and #late == 0 then", "#waiting == 0 then"),
    "late not named": ("late[#late + 1] = holder.stream", ""),
    "late named without limit": ("if #late > late_max then table.remove(late, 1) end", ""),
    "late named for ever": ("if now < late_at + late_keep then\n  for", "if true then\n  for"),
    "logged without a word": ("if logged then note_logged() end", "note_logged()"),
    "logged and named again": ("if logged then note_logged() end", ""),
    "renewed and named again": (
        "return answer('lost') end\n    note_logged()",
        "return answer('lost') end",
    ),
    "dead one of long ago is named": (
        "if now < holder.seen + late_keep then drop",
        "if true then drop",
    ),
    "detached leaves nothing": ("detached[prefix .. me] = 'left'", ""),
    "token not compared": ("if holder.token ~= given_token then return answer('lost') end", ""),
    "dead holder kept": (
        "#waiting == 0 and is_dead(holder.seen) then",
        "#waiting == 0 and false then",
    ),
    "rejected waits": ("then return answer('busy') end", "then end"),
    "known twice": (
        "if named == 'detached' then return redis.error_reply('ILLEGAL it is detached') end",
        "",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_of_the_script_is_found(mutant: str, valkey: str) -> None:
    """A script with one safeguard less does otherwise than the table."""
    before, after = MUTANTS[mutant]
    assert before in SCRIPT

    async def program() -> None:
        async with in_redis(valkey, SCRIPT.replace(before, after)) as store:
            await check(store)

    with pytest.raises((Differs, StoreUnreachable)):
        asyncio.run(program())
