"""Each client in every case: plain, streamed, tools, errors, stops, and a newer prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.played import CLIENTS, Played
from tests.clients.support import Wire

pytestmark = [pytest.mark.clients, pytest.mark.socket]

# What the fake answers: the words of the prompt, and then its own.
ANSWER_WORDS = 40
# How often a prompt is posted, if not once. A failed model is a 5xx, which these repeat
# (LangChain.js as often as its program says: with its default it would take a minute).
POSTS_OF_A_FAILURE = {"litellm": 3, "ai-sdk": 3, "langchain.js": 2}
# What was superseded before it began is a 400, which only LiteLLM repeats, as it is set.
POSTS_OF_A_SUPERSEDED = {"litellm": 3}
each_client = pytest.mark.parametrize("client", CLIENTS)

Play = Callable[[str], Played]


def is_whole(text: str) -> bool:
    return len(text.split()) == ANSWER_WORDS


def is_told(error: Any, words: str) -> bool:
    return bool(error.get("error")) and words in error["message"].lower()


@each_client
def test_a_plain_answer_has_text_and_usage(play: Play, client: str) -> None:
    """The whole answer comes as one object, and usage is counted."""
    answer = play(client).outcome("plain")
    assert is_whole(answer["text"])
    assert 41 in answer["usage"].values() or 41 in str(answer["usage"]).split(), answer["usage"]


@each_client
def test_a_streamed_answer_has_text_and_usage(play: Play, client: str) -> None:
    """The pieces make up the whole text, and usage comes with the last of them."""
    played = play(client)
    answer = played.outcome("streamed")
    assert answer["text"] == played.outcome("plain")["text"]
    assert "41" in str(answer["usage"]), answer["usage"]


@each_client
def test_pings_are_no_pieces(play: Play, client: str) -> None:
    """A stream that is silent for several pings is read to its end."""
    played = play(client)
    assert played.outcome("silent")["text"] == played.outcome("plain")["text"]


@each_client
def test_a_tool_loop_comes_to_its_answer(play: Play, client: str) -> None:
    """The client reads the call, sends its result, and gets an answer to it."""
    outcome = play(client).outcome("tools")
    assert "weather" in str(outcome["call"])
    assert outcome["text"]


@each_client
def test_a_failed_model_is_an_error_with_its_reason(play: Play, client: str) -> None:
    """The reason reaches the caller; a client that repeats a 5xx does so, and gives up in time."""
    played = play(client)
    error = played.outcome("model_error")
    assert is_told(error, "terminated"), error
    posts = played.server.wire.posts("model_error")
    print(f"posts of {client}, model_error: {posts}")
    assert posts == POSTS_OF_A_FAILURE.get(client, 1)


@each_client
def test_an_error_amid_a_stream_is_raised(play: Play, client: str) -> None:
    """A stream that breaks off is an error for its reader, not a short answer."""
    error = play(client).outcome("error_midstream")
    assert is_told(error, "unexpected eof"), error


@each_client
def test_a_reader_that_stops_ends_the_stream(play: Play, client: str) -> None:
    """Breaking off the iteration stops the stream and its upstream call."""
    outcome = play(client).outcome("stop")
    assert outcome["stream"]["reason"] == "cancelled"
    assert "client_left" in outcome["stream"]["message"]


@each_client
def test_a_superseded_stream_ends_with_its_reason(play: Play, client: str) -> None:
    """Prompt 1 ends with a clear error, prompt 2 is whole, and each was posted once."""
    played = play(client)
    outcome = played.outcome("superseded_stream")
    assert is_told(outcome["first"], "newer"), outcome["first"]
    assert is_whole(outcome["second"]["text"])
    for text in ("prompt 1", "prompt 2"):
        assert played.server.wire.posts("superseded_stream", text) == 1


@each_client
def test_a_repetition_does_not_stop_the_newer_prompt(play: Play, client: str) -> None:
    """Prompt 1 is given up for good while prompt 2 still streams, whatever its client repeats."""
    played = play(client)
    outcome = played.outcome("superseded_whole")
    assert is_told(outcome["first"], "newer"), outcome["first"]
    assert not outcome["killed"], outcome["second"]
    assert is_told(outcome["second"], "cancel"), outcome["second"]
    assert is_whole(outcome["third"]["text"])
    posts = [played.server.wire.posts("superseded_whole", f"prompt {number}") for number in "123"]
    print(f"posts of {client}, superseded: {posts}, prompt 1: {outcome['first']}")
    assert posts == [POSTS_OF_A_SUPERSEDED.get(client, 1), 1, 1]


def test_a_connection_that_sent_nothing_is_no_request() -> None:
    """Some clients open one ahead and leave it: what the others sent is counted all the same."""
    sent = b"POST /v1/chat/completions HTTP/1.1\r\nX-Session-Id: s\r\n\r\nprompt 1"
    wire = Wire(connections=[bytearray(), bytearray(sent)])
    assert wire.posts("s", "prompt 1") == 1
