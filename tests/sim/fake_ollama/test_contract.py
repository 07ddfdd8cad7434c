"""The contract: what every front of the fake, and a real Ollama, owes a client.

Tests that need a misbehaving model, or a look inside, are skipped for the real one. Set
ONESTREAM_OLLAMA_URL and ONESTREAM_OLLAMA_MODEL (an installed model that neither thinks nor is
slow) to run the others against it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from sim.fake_ollama.modes import BUSY_TEXT

pytestmark = pytest.mark.once

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
PATIENCE_S = 0.25
SHORT = {"options": {"num_predict": 5, "seed": 1, "temperature": 0}}


@pytest.fixture
def fake_front(front: Any) -> Any:
    """A front whose models can be told to misbehave."""
    if front.is_real:
        pytest.skip("a real Ollama cannot be told to misbehave")
    return front


# ---- what a real Ollama does too ------------------------------------------------------------


def test_a_chat_is_a_stream_of_json_lines(front: Any) -> None:
    """Each chunk has the role and its content; the last one is done and carries the metrics."""
    reply = front.ask(front.chat("normal", **SHORT))
    assert (reply.status, reply.content_type, reply.ending) == (200, NDJSON, "eof")
    for line in reply.lines:
        assert line["model"] == front.model("normal")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", line["created_at"])
        assert line["message"]["role"] == "assistant"
        assert isinstance(line["message"]["content"], str)
    assert [line["done"] for line in reply.lines] == [False] * (len(reply.lines) - 1) + [True]
    last = reply.lines[-1]
    assert last["done_reason"] in ("stop", "length")
    for name in ("total_duration", "eval_count", "eval_duration"):
        assert isinstance(last[name], int)
        assert last[name] > 0


def test_without_stream_the_chunks_come_as_one_object(front: Any) -> None:
    """`stream: false` gives one JSON object with the content of all chunks."""
    streamed = front.ask(front.chat("normal", **SHORT))
    whole = front.ask(front.chat("normal", stream=False, **SHORT))
    assert (whole.status, whole.content_type, whole.ending) == (200, JSON, "eof")
    assert whole.object["done"]
    said = "".join(line["message"]["content"] for line in streamed.lines)
    assert whole.object["message"]["content"] == said
    assert whole.object["done_reason"] == streamed.lines[-1]["done_reason"]


@pytest.mark.parametrize("stream", [True, False])
def test_generate_answers_with_response_and_context(front: Any, stream: bool) -> None:
    """/api/generate has `response` in place of `message`, and ends with a list of ints."""
    body = {"model": front.model("normal"), "prompt": "why is the sky blue", "stream": stream}
    reply = front.ask(front.post("/api/generate", {**body, **SHORT}))
    lines = reply.lines if stream else [reply.object]
    assert reply.content_type == (NDJSON if stream else JSON)
    assert all(isinstance(line["response"], str) and "message" not in line for line in lines)
    assert lines[-1]["done"]
    assert all(isinstance(number, int) for number in lines[-1]["context"])


def test_the_front_page_says_that_ollama_is_running(front: Any) -> None:
    """GET / is what people use to see whether it is there."""
    reply = front.ask(front.get("/"))
    assert (reply.status, reply.body) == (200, b"Ollama is running")


def test_the_version_is_text(front: Any) -> None:
    """GET /api/version has one field."""
    assert isinstance(front.ask(front.get("/api/version")).object["version"], str)


def test_tags_lists_the_installed_models(front: Any) -> None:
    """Each model has a name with its tag, a digest of 64 digits, and details."""
    models = front.ask(front.get("/api/tags")).object["models"]
    assert front.model("normal") in {model["name"] for model in models}
    for model in models:
        assert model["name"] == model["model"]
        assert ":" in model["name"]
        assert re.fullmatch("[0-9a-f]{64}", model["digest"])
        assert model["size"] > 0
        assert {"modified_at", "details"} <= model.keys()


def test_texts_become_vectors(fake_front: Any) -> None:
    """/api/embed takes one text or several, /api/embeddings one; each text has its own vector."""
    model = fake_front.model("normal")

    def ask(path: str, **fields: object) -> Any:
        return fake_front.ask(fake_front.post(path, {"model": model, **fields})).object

    several = ask("/api/embed", input=["a b", "c"])
    first, second = several["embeddings"]
    assert first != second
    assert several["prompt_eval_count"] == 3
    assert ask("/api/embed", input="a b")["embeddings"] == [first]
    assert ask("/api/embed", input="a b", dimensions=2)["embeddings"] == [first[:2]]
    assert ask("/api/embeddings", prompt="a b") == {"embedding": first}
    reply = fake_front.ask(fake_front.post("/api/embed", {"model": "nobody", "input": "a"}))
    assert (reply.status, reply.object["error"]) == (404, "model 'nobody' not found")


def test_blank_messages_load_and_unload_the_model(front: Any) -> None:
    """No messages load the model; with keep_alive 0 they unload it; /api/ps shows both."""
    model = front.model("normal")
    load = front.ask(front.post("/api/chat", {"model": model, "messages": []}))
    assert (load.content_type, load.object["done"]) == (JSON, True)
    assert load.object["done_reason"] == "load"
    assert load.object["message"] == {"role": "assistant", "content": ""}
    running = {known["name"]: known for known in front.ask(front.get("/api/ps")).object["models"]}
    assert {"expires_at", "size_vram", "context_length", "digest"} <= running[model].keys()
    unload = front.ask(front.post("/api/chat", {"model": model, "messages": [], "keep_alive": 0}))
    assert unload.object["done_reason"] == "unload"
    if not front.is_real:  # the real one takes a moment
        assert front.ask(front.get("/api/ps")).object["models"] == []


def test_a_blank_prompt_loads_and_unloads_the_model(front: Any) -> None:
    """/api/generate loads and unloads in the same way."""
    model = front.model("normal")
    load = front.ask(front.post("/api/generate", {"model": model}))
    assert load.object["done_reason"] == "load"
    assert load.object["response"] == ""
    unload = front.ask(front.post("/api/generate", {"model": model, "keep_alive": 0}))
    assert unload.object["done_reason"] == "unload"


def test_show_names_the_capabilities(front: Any) -> None:
    """POST /api/show tells what a model can do."""
    shown = front.ask(front.post("/api/show", {"model": front.model("normal")})).object
    assert "completion" in shown["capabilities"]
    assert {"details", "model_info"} <= shown.keys()


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show"])
def test_an_unknown_model_is_not_found(front: Any, path: str) -> None:
    """404 and the name as it was asked for."""
    reply = front.ask(front.post(path, {"model": "no-such-model", "messages": [], "prompt": ""}))
    assert (reply.status, reply.content_type) == (404, JSON)
    assert reply.object == {"error": "model 'no-such-model' not found"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "missing request body"),
        (b'{"messages": []}', "model is required"),
        (b'{"model": "m", "keep_alive": "300"}', 'time: missing unit in duration "300"'),
    ],
)
def test_a_bad_chat_request_is_refused(front: Any, content: bytes, text: str) -> None:
    """400 with Ollama's own words, whether or not the model exists."""
    reply = front.ask(front.post("/api/chat", content=content))
    assert (reply.status, reply.content_type) == (400, JSON)
    assert reply.object == {"error": text}


def test_an_unknown_path_is_plain_text(front: Any) -> None:
    """404 without JSON: not every error can be parsed."""
    reply = front.ask(front.get("/api/no-such-path"))
    assert reply.status == 404
    assert reply.content_type.startswith("text/plain")


def test_a_wrong_method_is_refused(front: Any) -> None:
    """GET on an endpoint that wants POST is 405."""
    assert front.ask(front.get("/api/chat")).status == 405


def test_a_client_that_leaves_makes_room_for_the_next(front: Any) -> None:
    """The slot is free again after a disconnect in the midst of a stream."""
    left = front.ask(front.chat("slow", "count to a thousand", leave_after=2))
    assert left.ending == "left"
    assert front.ask(front.chat("slow", **SHORT)).lines[-1]["done"]


# ---- what only a fake can be told to do -----------------------------------------------------


def test_a_model_without_a_capability_says_so(fake_front: Any) -> None:
    """Asking for thoughts or tools of a model that has none is a 400."""
    think = fake_front.ask(fake_front.chat("normal", think=True))
    tools = fake_front.ask(fake_front.chat("normal", tools=[{"type": "function"}]))
    assert (think.status, tools.status) == (400, 400)
    assert think.object == {"error": '"fake:normal" does not support thinking'}
    assert tools.object == {"error": '"fake:normal" does not support tools'}


def test_a_chunk_is_a_segment(fake_front: Any) -> None:
    """A reader sees each chunk on its own, as soon as it is there."""
    reply = fake_front.ask(fake_front.chat("normal"))
    assert len(reply.segments) == 7
    assert all(segment.count(b"\n") == 1 for segment in reply.segments)


def test_one_segment_brings_many_chunks(fake_front: Any) -> None:
    """A reader that takes a segment for a chunk loses all but one."""
    reply = fake_front.ask(fake_front.chat("one-segment"))
    assert (len(reply.segments), len(reply.lines)) == (1, 7)


def test_unicode_survives_any_split(fake_front: Any) -> None:
    """Characters and lines are cut between segments; split on LF alone, all lines parse."""
    reply = fake_front.ask(fake_front.chat("unicode"))
    said = "".join(line["message"]["content"] for line in reply.lines)
    assert "next\u0085line line\u2028separator" in said
    assert len(reply.segments) > 2 * len(reply.lines)
    with pytest.raises(UnicodeDecodeError):
        [segment.decode() for segment in reply.segments]


@pytest.mark.parametrize("mode", ["hang-before-headers", "slow-load", "busy-queue"])
def test_nothing_comes_before_the_first_chunk(fake_front: Any, mode: str) -> None:
    """Not even a status line: the client that gives up has seen nothing at all."""
    reply = fake_front.ask(fake_front.chat(mode, patience_s=PATIENCE_S))
    assert (reply.status, reply.ending) == (None, "silent")


def test_a_hung_stream_is_silent_after_some_chunks(fake_front: Any) -> None:
    """Headers and chunks come, then nothing; the client has to give up by itself."""
    reply = fake_front.ask(fake_front.chat("hang-midstream", patience_s=4 * PATIENCE_S))
    assert (reply.status, reply.ending, len(reply.lines)) == (200, "silent", 3)


def test_an_error_before_the_first_chunk_has_a_status(fake_front: Any) -> None:
    """500 and a JSON object, in place of the stream."""
    reply = fake_front.ask(fake_front.chat("error"))
    assert (reply.status, list(reply.object)) == (500, ["error"])


@pytest.mark.parametrize(
    ("mode", "status"),
    [("busy", 503), ("unauthorized", 401), ("rate-limited", 429), ("bad-gateway", 502)],
)
def test_a_refusal_has_its_status(fake_front: Any, mode: str, status: int) -> None:
    """Refusals differ in status; all have an `error`, 401 a `signin_url` besides."""
    reply = fake_front.ask(fake_front.chat(mode))
    assert (reply.status, reply.content_type) == (status, JSON)
    assert (reply.object["error"] == BUSY_TEXT) == (mode == "busy")
    assert ("signin_url" in reply.object) == (mode == "unauthorized")


def test_an_error_midstream_leaves_the_status_alone(fake_front: Any) -> None:
    """200, some chunks, an error line, EOF; no chunk is done."""
    reply = fake_front.ask(fake_front.chat("error-midstream"))
    assert (reply.status, reply.ending) == (200, "eof")
    assert [line.get("done") for line in reply.lines] == [False, False, False, None]
    assert list(reply.lines[-1]) == ["error"]


def test_without_stream_an_error_midstream_is_a_500(fake_front: Any) -> None:
    """Nothing has been sent yet, so the status can still tell."""
    reply = fake_front.ask(fake_front.chat("error-midstream", stream=False))
    assert (reply.status, list(reply.object)) == (500, ["error"])


@pytest.mark.parametrize(("mode", "ending"), [("cut", "eof"), ("crash", "broken")])
def test_an_answer_can_end_without_done(fake_front: Any, mode: str, ending: str) -> None:
    """A proper EOF does not mean that the answer is complete."""
    reply = fake_front.ask(fake_front.chat(mode))
    assert (reply.ending, [line["done"] for line in reply.lines]) == (ending, [False] * 3)


def test_without_stream_a_cut_answer_is_not_done(fake_front: Any) -> None:
    """The one object says `done: false`, as Ollama's does."""
    assert fake_front.ask(fake_front.chat("cut", stream=False)).object["done"] is False


def test_a_crash_can_come_before_the_headers(fake_front: Any) -> None:
    """Without stream the connection breaks before anything was sent."""
    reply = fake_front.ask(fake_front.chat("crash", stream=False))
    assert (reply.status, reply.ending) == (None, "broken")


def test_calls_of_one_model_come_one_after_the_other(fake_front: Any) -> None:
    """With one slot no call begins before the one before it is over."""
    replies = fake_front.ask_all([fake_front.chat("normal", f"prompt {n}") for n in range(4)])
    assert all(reply.lines[-1]["done"] for reply in replies)
    calls = sorted(fake_front.fake.calls, key=lambda call: call.slot_ns)
    for earlier, later in pairwise(calls):
        assert earlier.ended_ns <= later.slot_ns


def test_a_disconnect_is_recorded_and_frees_the_slot(fake_front: Any) -> None:
    """A client that leaves a hung stream leaves no call and no slot behind."""
    fake_front.ask(fake_front.chat("hang-midstream", leave_after=3))
    again = fake_front.ask(fake_front.chat("hang-midstream", leave_after=3))
    assert len(again.segments) == 3
    assert fake_front.fake.calls[0].ended == "disconnected"


def test_a_leaked_slot_blocks_the_model_until_it_is_reloaded(fake_front: Any) -> None:
    """ollama#17131: the next prompt waits in silence; an unload mends it."""
    mode = "ignores-disconnect"
    unload = {"model": fake_front.model(mode), "messages": [], "keep_alive": 0}
    fake_front.ask(fake_front.chat(mode, leave_after=1))
    assert fake_front.ask(fake_front.chat(mode, patience_s=PATIENCE_S)).status is None
    assert fake_front.ask(fake_front.post("/api/chat", unload)).status == 200
    assert fake_front.ask(fake_front.chat(mode, **SHORT)).lines[-1]["done"]
    assert fake_front.fake.calls[0].ended == "leaked"


def test_a_load_that_is_left_starts_anew(fake_front: Any) -> None:
    """ollama#8398: impatient clients never get the model loaded, a patient one does."""
    for _ in range(2):
        reply = fake_front.ask(fake_front.chat("slow-load", patience_s=PATIENCE_S))
        assert reply.ending == "silent"
    assert fake_front.ask(fake_front.chat("slow-load")).lines[-1]["done"]
    assert fake_front.fake.state("fake:slow-load").loads_started == 3


def test_thoughts_stand_apart_from_the_content(fake_front: Any) -> None:
    """`message.thinking` comes first, with empty content; without stream both are joined."""
    reply = fake_front.ask(fake_front.chat("thinking"))
    first = reply.lines[0]["message"]
    assert (first["thinking"].startswith("Thinking about why"), first["content"]) == (True, "")
    whole = fake_front.ask(fake_front.chat("thinking", stream=False)).object["message"]
    assert whole["thinking"].startswith("Thinking about why")
    assert whole["content"].startswith("why is the sky blue")


def test_zero_metrics_are_missing(fake_front: Any) -> None:
    """A client must not rely on any metric being there."""
    last = fake_front.ask(fake_front.chat("zeros")).lines[-1]
    assert last["done"]
    assert not {"total_duration", "prompt_eval_count", "eval_count"} & last.keys()
