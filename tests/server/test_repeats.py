"""Repetitions: what a library sends again stops no newer prompt; what a person types again may."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from registry import Repetition, State
from registry.attempts import PER_SESSION_MAX, Attempt
from server.errors import as_api_error
from server.repeats import SESSIONS_MAX, Repeats, digest_of, says_it_repeats
from tests.server.support import CLIENTS, Stack, error_of, prompt, run_async, stack, until

pytestmark = pytest.mark.once

HANG = "fake:hang-before-headers"
SESSION = {"x-session-id": "s"}


class Asked:
    """Repeats with a registry of its own, in which the newest interrupts."""

    def __init__(self, window_s: float = 60.0) -> None:
        self.states: dict[str, State] = {}
        self.repeats = Repeats(window_s=window_s, state_of=self.states.get)
        self.now = 0.0
        self._serial = 0

    def ask(
        self, text: str, session: str = "s", *, says: bool = False, interrupts: bool = True
    ) -> str:
        """Registers; what was active is superseded. Raises what admit raises."""
        self._serial += 1
        trace_id = f"t{self._serial}"
        attempt = Attempt(digest_of(text.encode()).hex(), says)
        self.repeats.admit(session, trace_id, attempt, self.now, interrupts=interrupts)
        if not interrupts:
            self.states[trace_id] = State.WAITING
            return trace_id
        for other in [name for name, state in self.states.items() if state is State.ACTIVE]:
            self.end(other, session)
        self.states[trace_id] = State.ACTIVE
        return trace_id

    def end(self, trace_id: str, session: str = "s", *, whole: bool = False) -> None:
        self.states.pop(trace_id, None)
        self.repeats.over(session, trace_id, self.now, is_whole=whole)

    def refused(self, text: str, **how: Any) -> bool:
        try:
            self.ask(text, **how)
        except Repetition as exc:
            error = as_api_error(exc)
            return (error.status, error.code) == (400, "repetition")
        return False


def test_a_superseded_prompt_does_not_come_back_while_the_newer_is_there() -> None:
    """Once, and again; it may be asked again once the newer one is over."""
    asked = Asked()
    asked.ask("one")
    newer = asked.ask("two")
    assert asked.refused("one")
    assert asked.refused("one")
    assert asked.states == {newer: State.ACTIVE}
    asked.end(newer, whole=True)
    assert not asked.refused("one")


def test_the_same_typed_again_is_no_repetition() -> None:
    """While the first is there, three times over, and after a whole answer next to a newer one."""
    asked = Asked()
    for _ in range(3):
        assert not asked.refused("hi")
    assert asked.refused("hi", says=True)
    asked.end("t3", whole=True)
    assert not asked.refused("hi")
    asked.end("t5", whole=True)
    asked.ask("another")
    # Of the attempts before, two were superseded: they are what a library might repeat.
    assert asked.refused("hi")


def test_a_whole_answer_leaves_nothing_behind() -> None:
    """What was answered may be asked again next to a newer prompt, and takes no memory."""
    asked = Asked()
    first = asked.ask("one")
    asked.end(first, whole=True)
    assert len(asked.repeats) == 0
    asked.ask("two")
    assert not asked.refused("one")


def test_the_newest_wins_whichever_fails() -> None:
    """A repetition that found its session free gives way to that of a newer prompt."""
    asked = Asked()
    asked.ask("one")
    asked.end(asked.ask("two"))
    assert not asked.refused("one")
    assert not asked.refused("two")
    assert asked.refused("one")


def test_a_waiting_prompt_is_newer_too() -> None:
    """What waits for an older stream's clean-up is protected as what is active."""
    asked = Asked()
    asked.ask("one")
    asked.states[asked.ask("two")] = State.WAITING
    assert asked.refused("one")


def test_what_stops_nobody_is_not_refused() -> None:
    """A repetition that waits for its turn is let in behind the newer one, and protected there."""
    asked = Asked()
    asked.ask("one")
    newer = asked.ask("two")
    assert not asked.refused("one", interrupts=False)
    asked.end(newer)
    assert asked.refused("two")


def test_what_stopped_nobody_is_protected_when_it_has_its_turn() -> None:
    """A prompt that was enqueued, and is active now, is newer than the one it waited for."""
    asked = Asked()
    older = asked.ask("one")
    newer = asked.ask("two", interrupts=False)
    asked.end(older)
    asked.states[newer] = State.ACTIVE
    assert asked.refused("one")
    assert not asked.refused("one", interrupts=False)


def test_sessions_know_nothing_of_each_other() -> None:
    """The same body in another session is another prompt."""
    asked = Asked()
    asked.ask("one", "a")
    asked.ask("two", "a")
    assert not asked.refused("one", session="b")


def test_a_prompt_is_forgotten_in_the_window() -> None:
    """Counted from when it was last told no; 0 forgets at once."""
    asked = Asked(window_s=10.0)
    asked.ask("one")
    asked.ask("two")
    asked.now = 9.0
    assert asked.refused("one")
    asked.now = 18.0
    assert asked.refused("one")
    asked.now = 29.0
    assert not asked.refused("one")
    never = Asked(window_s=0.0)
    never.ask("one")
    never.ask("two")
    assert not never.refused("one")


def test_memory_is_bounded() -> None:
    """By session, and over all of them."""
    asked = Asked()
    for number in range(2 * PER_SESSION_MAX):
        asked.ask(f"prompt {number}")
    assert len(asked.repeats) == PER_SESSION_MAX
    for number in range(SESSIONS_MAX + 100):
        asked.end(asked.ask("x", f"session {number}"), f"session {number}")
    assert len(asked.repeats) <= SESSIONS_MAX
    asked.now = 1000.0
    asked.ask("x", "the last")
    assert len(asked.repeats) == 1


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, False),
        ({"x-stainless-retry-count": "0"}, False),
        ({"x-stainless-retry-count": "1"}, True),
        ({"x-stainless-retry-count": "²"}, False),
        ({"x-stainless-retry-count": "9" * 5000}, False),
        ({"x-envoy-attempt-count": "1"}, False),
        ({"x-envoy-attempt-count": "2"}, True),
    ],
)
def test_what_a_request_says_of_itself(headers: dict[str, str], says: bool) -> None:
    """The first attempt is counted from 0 or from 1, by who counts; nonsense says nothing."""
    assert says_it_repeats(headers) is says


async def until_asked(server: Stack, text: str) -> None:
    await until(lambda: any(text in call.prompt for call in server.fake.active_calls), text)


@pytest.mark.socket
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("ends", "newer"),
    [
        ("superseded", "interrupt"),
        ("cancelled", "interrupt"),
        ("left", "interrupt"),
        ("cancelled", "enqueue"),
        ("left", "reject"),
    ],
)
def test_a_repetition_over_http(client: str, ends: str, newer: str) -> None:
    """However prompt 1 ended and prompt 2 came, 1 again gets 400, and 2 its whole answer."""

    async def main() -> None:
        async with stack("instant", {"prompt_eval_s": 0.5}, ollama_client=client) as server:
            body = prompt("one", stream=True, model=HANG)
            first = asyncio.create_task(server.post(body, headers=SESSION))
            await until_asked(server, "one")
            if ends == "cancelled":
                trace_id = server.registry.snapshot().streams[0].trace_id
                await server.http.post(f"/v1/streams/{trace_id}/cancel")
                await until(lambda: not server.states(), "it has ended")
            elif ends == "left":
                first.cancel()
                await asyncio.wait({first})
                await until(lambda: not server.states(), "it has left")
            second = asyncio.create_task(
                server.post(prompt("two", stream=True, session_strategy=newer), headers=SESSION)
            )
            await until_asked(server, "two")
            again = await server.post({**body, "stream": False}, headers=SESSION)
            assert again.status_code == 400
            assert again.headers["x-should-retry"] == "false"
            assert error_of(again)["code"] == "repetition"
            assert "[DONE]" in (await second).text
            assert "error" not in (await second).text
            if ends != "left":
                assert (await first).status_code == 400
                assert error_of(await first)["code"] == ends
            await server.quiet()

    run_async(main())
