"""What holds of each store as a worker meets it: a session is handed over, what is no answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from registry.lease_records import (
    Cancel,
    LeaseOperation,
    Reply,
)
from registry.lease_state import LimitsDiffer
from server.stores.directory import entry_of
from server.stores.memory_store import MemoryStore, SharedMemory
from server.stores.store import StoreRefused, StoreUnreachable
from server.stores.watched_store import WatchedStore
from tests.server.asked_stores import LIMITS, Clock, hand_over, run


def test_a_session_is_handed_over_in_memory() -> None:
    """From one worker to another of the same process."""

    async def program() -> None:
        shared = SharedMemory.new(LIMITS, Clock())
        await hand_over(MemoryStore(shared, "v"), MemoryStore(shared, "w"))

    run(program)


def test_only_what_the_store_did_not_answer_counts_as_unanswered() -> None:
    """Neither what its asker gave up, nor a refusal, which is an answer."""
    outcomes: list[Exception] = [
        StoreUnreachable("away"),
        StoreRefused("no"),
        LimitsDiffer(LIMITS, replace(LIMITS, queue_max=9).text, 0),
    ]

    class Answers(MemoryStore):
        async def ask(self, operation: LeaseOperation) -> Reply:
            if outcomes:
                raise outcomes.pop(0)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    async def main() -> None:
        heard: list[object] = []
        store = WatchedStore(Answers(SharedMemory.new(LIMITS, Clock()), "w"), "w")
        store.on_asked = lambda event: heard.append(dict(event.fields)["answer"])
        for exc in list(outcomes):
            with pytest.raises(type(exc)):
                await store.ask(Cancel("s", "w/1"))
        asks = asyncio.create_task(store.ask(Cancel("s", "w/1")))
        await asyncio.sleep(0)
        asks.cancel()
        await asyncio.wait({asks})
        assert heard == ["none", "refused", "refused", "unknown"]

    run(main)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ({"more": 1, "worker": "w", "at_ms": 2000, "view": '{"chunks": 3, "new": 4}'}, (2, 3)),
        ({"worker": "w"}, (0, 0)),
        ({"worker": "w", "view": "no JSON"}, (0, 0)),
        ({"worker": "w", "view": "[]"}, (0, 0)),
        ([], (0, 0)),
    ],
)
def test_an_entry_of_another_release_is_shown(text: object, shown: tuple[int, int]) -> None:
    """What it says beyond this one is left out, and what it lacks is as of a stream that began."""
    entry = entry_of("key", "t", json.dumps(text))
    assert (entry.owner, entry.trace_id, entry.ended) == ("key", "t", False)
    view = entry.shown
    assert (view["created"], view["chunks"]) == shown
    assert view["state"] == "ACTIVE"
    assert view["timings_ms"]["started"] is None
