"""The script by hand: what each mode does, step by step, on a clock that only sleeps move."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from sim.fake_ollama import MODES, PROFILES, Profile, profile_named
from sim.fake_ollama.answers import WORD_MAX_CHARS
from sim.fake_ollama.modes import BUSY_TEXT
from sim.fake_ollama.steps import Body, Drop, End, Hang, Head, Sleep

pytestmark = pytest.mark.once


def kinds(driven: Any) -> list[str]:
    return [type(step).__name__ for step in driven.steps]


def content(driven: Any) -> str:
    return "".join(line["message"]["content"] for line in driven.lines)


def test_normal_loads_evaluates_and_then_sends_a_chunk_per_segment(drive: Any) -> None:
    """The waits come in order: the load, the prompt evaluation, then one before each chunk."""
    driven = drive(chunks=3, load_s=2.0, prompt_eval_s=0.5, chunk_s=0.1).chat("llama3.2").run()
    assert driven.steps[:4] == [
        Sleep(2.0),
        Sleep(0.5),
        Head(200, "application/x-ndjson"),
        Body(driven.segments[0]),
    ]
    assert kinds(driven)[4:] == ["Sleep", "Body", "Sleep", "Body", "Body", "End"]
    assert [line["done"] for line in driven.lines] == [False, False, False, True]


def test_a_loaded_model_does_not_load_again(drive: Any) -> None:
    """The second call of a model pays for no load."""
    driver = drive(load_s=7.0, prompt_eval_s=0, chunk_s=0)
    driver.chat("llama3.2").run()
    assert driver.chat("llama3.2").run().slept_s == 0
    assert driver.fake.state("llama3.2").loads_started == 1


def test_the_answer_echoes_the_prompt_and_is_the_same_each_time(drive: Any) -> None:
    """A human sees which prompt is answered; two equal prompts get equal answers."""
    driver = drive(chunks=6)
    answers = [content(driver.chat("llama3.2", "roses are red").run()) for _ in range(2)]
    assert answers == ["roses are red word1 word2 word3"] * 2


def test_a_word_without_end_is_echoed_by_its_start(drive: Any) -> None:
    """Nobody's model writes megabytes in one chunk, and no client has to take them."""
    driver = drive(chunks=2)
    told = content(driver.chat("llama3.2", "x" * 10**6 + " roses").run())
    assert told == "x" * WORD_MAX_CHARS + " word1"


def test_the_metrics_tell_the_time_that_passed(drive: Any) -> None:
    """Durations are in nanoseconds, of the clock that the front brought."""
    driven = drive(chunks=3, load_s=2.0, prompt_eval_s=0.5, chunk_s=0.25).chat("llama3.2").run()
    last = driven.lines[-1]
    assert last["load_duration"] == 2_000_000_000
    assert last["prompt_eval_duration"] == 500_000_000
    assert last["eval_duration"] == 500_000_000
    assert last["total_duration"] == 3_000_000_000
    assert last["prompt_eval_count"] == 5
    assert last["eval_count"] == 4
    assert last["created_at"] == "2026-08-01T12:00:03.000000000Z"


def test_num_predict_cuts_the_answer_short(drive: Any) -> None:
    """An answer that num_predict shortens ends with the reason `length`."""
    driven = drive(chunks=9).chat("llama3.2", options={"num_predict": 2}).run()
    assert len(driven.lines) == 3
    assert driven.lines[-1]["done_reason"] == "length"


@pytest.mark.parametrize(("mode", "load_s"), [("slow-load", 5.0), ("load-aborted", 30.0)])
def test_nothing_is_sent_while_a_slow_model_loads(drive: Any, mode: str, load_s: float) -> None:
    """Not even the status line comes before the load and the prompt evaluation are over."""
    driven = drive(prompt_eval_s=0.5).chat(f"fake:{mode}").run_until(Head)
    assert driven.steps[:-1] == [Sleep(load_s), Sleep(0.5)]


def test_a_load_that_is_prompted_anew_too_soon_never_ends(drive: Any) -> None:
    """ollama#8398: each caller that leaves takes the load with it, the next starts from zero."""
    driver = drive()
    for _ in range(3):
        driven = driver.chat("fake:load-aborted").run_until(Sleep)
        driven.leave()
    state = driver.fake.state("fake:load-aborted")
    assert (state.loaded, state.loads_started) == (False, 3)
    patient = driver.chat("fake:load-aborted").run()
    assert patient.lines[-1]["done"]
    assert driver.fake.state("fake:load-aborted").loaded


def test_who_waits_for_a_load_takes_it_over_when_its_driver_leaves(drive: Any) -> None:
    """The second caller drives the load from its beginning once the first has left."""
    driver = drive(load_s=2.0)
    first = driver.chat("llama3.2").run_until(Sleep)
    second = driver.chat("llama3.2").run()
    assert second.waits
    first.leave()
    assert not second.waits
    assert second.step() == Sleep(2.0)


def test_who_waits_for_a_load_shares_it(drive: Any) -> None:
    """One load serves all who waited for it."""
    driver = drive(load_s=2.0, num_parallel=2)
    first, second = driver.chat("llama3.2"), driver.chat("llama3.2")
    first.run_until(Sleep)
    assert second.run().waits
    first.run_until(Body)
    second.run_until(Body)
    assert Sleep(2.0) not in second.steps
    assert driver.fake.state("llama3.2").loads_started == 1


def test_a_query_behind_the_path_is_ignored(drive: Any) -> None:
    """A client that adds a query to defeat a cache still gets the answer."""
    assert "version" in drive().get("/api/version?now=1").run().object


def test_the_queue_for_a_load_is_bounded(drive: Any) -> None:
    """OLLAMA_MAX_QUEUE: that number wait for a load, the next is refused with 503."""
    driver = drive(queue_max=1)
    loading, waiting = driver.chat("llama3.2"), driver.chat("llama3.2")
    loading.run_until(Sleep)
    assert waiting.run().waits
    refused = driver.chat("llama3.2").run()
    assert refused.head.status == 503
    assert refused.object == {"error": BUSY_TEXT}


def test_the_queue_for_a_slot_is_not_bounded(drive: Any) -> None:
    """Of a loaded model any number waits, in silence; there is no 503."""
    driver = drive(queue_max=0, chunk_s=0)
    hung = driver.chat("fake:hang-midstream").run()
    waiting = [driver.chat("fake:hang-midstream").run() for _ in range(5)]
    assert all(driven.waits and driven.head is None for driven in waiting)
    hung.leave()
    assert [driven.waits for driven in waiting] == [False, True, True, True, True]


def test_a_second_call_waits_for_the_slot_of_the_first(drive: Any) -> None:
    """OLLAMA_NUM_PARALLEL 1: nothing of the second before all of the first."""
    driver = drive()
    first = driver.chat("llama3.2").run_until(Body)
    second = driver.chat("llama3.2").run()
    assert second.waits
    assert driver.fake.state("llama3.2").slots_waiting == 1
    first.run()
    assert not second.waits
    assert second.run().lines[-1]["done"]
    assert driver.fake.slots_taken("llama3.2") == 0


def test_as_many_calls_run_at_once_as_there_are_slots(drive: Any) -> None:
    """With num_parallel 2, two stream side by side and the third waits."""
    driver = drive(num_parallel=2)
    running = [driver.chat("llama3.2").run_until(Body) for _ in range(2)]
    assert all(driven.head is not None for driven in running)
    assert driver.chat("llama3.2").run().waits


def test_the_slot_is_free_before_the_client_sees_the_end(drive: Any) -> None:
    """A client that asks again at once after EOF finds the slot free and the call finished."""
    driver = drive()
    driver.chat("llama3.2").run_until(End)
    assert driver.fake.slots_taken("llama3.2") == 0
    assert driver.fake.active_calls == ()
    assert driver.fake.calls[-1].ended == "finished"


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if not mode.keeps_slot])
def test_a_disconnect_at_any_step_leaves_nothing_behind(drive: Any, mode: str) -> None:
    """Wherever the client leaves, the slot is free and the load's turn is passed on."""
    driver = drive(chunks=5)
    for steps in range(20):
        driven = driver.chat(f"fake:{mode}")
        for _ in range(steps):
            if isinstance(driven.step(), Hang | End | Drop):
                break
        driven.leave()
        assert driver.fake.active_calls == ()
        if MODES[mode].installed:
            assert driver.fake.slots_taken(f"fake:{mode}") == 0
            assert driver.fake.state(f"fake:{mode}").slots_waiting == 0


def test_a_slot_granted_to_a_caller_that_leaves_is_passed_on(drive: Any) -> None:
    """Granted and cancelled in one instant: the next in the queue gets the slot."""
    driver = drive()
    first = driver.chat("llama3.2").run_until(Body)
    second = driver.chat("llama3.2").run()
    third = driver.chat("llama3.2").run()
    first.leave()
    assert not second.waits
    second.leave()
    assert not third.waits
    assert third.run().lines[-1]["done"]


def test_a_caller_that_leaves_the_queue_for_a_slot_is_passed_over(drive: Any) -> None:
    """A cancelled waiter neither keeps a place in the queue nor counts as active."""
    driver = drive()
    first = driver.chat("llama3.2").run_until(Body)
    driver.chat("llama3.2").run().leave()
    assert driver.fake.state("llama3.2").slots_waiting == 0
    assert driver.fake.calls[-1].ended == "disconnected"
    first.leave()
    assert driver.fake.slots_taken("llama3.2") == 0


def test_ignores_disconnect_keeps_its_slot_until_it_is_unloaded(drive: Any) -> None:
    """ollama#17131: after a disconnect the model hangs for everybody, until it is reloaded."""
    driver = drive()
    driver.chat("fake:ignores-disconnect").run_until(Body).leave()
    assert driver.fake.calls[-1].ended == "leaked"
    assert driver.fake.active_calls == ()
    waiting = driver.chat("fake:ignores-disconnect").run()
    assert waiting.waits
    driver.now_ns += 3_600_000_000_000
    assert driver.fake.state("fake:ignores-disconnect").loaded
    unload = {"model": "fake:ignores-disconnect", "messages": [], "keep_alive": 0}
    assert driver.post("/api/chat", unload).run().object["done_reason"] == "unload"
    assert not waiting.waits
    assert waiting.run().lines[-1]["done"]
    assert driver.fake.state("fake:ignores-disconnect").loads_started == 2


def test_ignores_disconnect_leaks_nothing_that_it_has_not(drive: Any) -> None:
    """A caller that left before it had the slot leaks none; one that finished leaks none."""
    driver = drive()
    driver.chat("fake:ignores-disconnect").run_until(Sleep).leave()
    driver.chat("fake:ignores-disconnect").run()
    assert [call.ended for call in driver.fake.calls] == ["disconnected", "finished"]
    assert driver.fake.slots_taken("fake:ignores-disconnect") == 0


def test_reset_frees_leaked_slots(drive: Any) -> None:
    """`reset` does from inside what an unload request does from outside."""
    driver = drive()
    driver.chat("fake:ignores-disconnect").run_until(Body).leave()
    assert driver.fake.state("fake:ignores-disconnect").slots_leaked == 1
    driver.fake.reset()
    state = driver.fake.state("fake:ignores-disconnect")
    assert (state.loaded, state.slots_taken, state.slots_leaked) == (False, 0, 0)


def test_busy_queue_is_silent_while_another_has_the_slot(drive: Any) -> None:
    """The wait for somebody else's call comes before anything is sent."""
    driven = drive(load_s=0, prompt_eval_s=0, busy_s=9.0).chat("fake:busy-queue").run_until(Head)
    assert driven.steps[:-1] == [Sleep(9.0)]


@pytest.mark.parametrize(
    ("mode", "status"), [("busy", 503), ("unauthorized", 401), ("bad-gateway", 502)]
)
def test_a_refusal_comes_at_once(drive: Any, mode: str, status: int) -> None:
    """Neither load nor slot: the error is the first thing that happens."""
    driven = drive().chat(f"fake:{mode}").run()
    assert kinds(driven) == ["Head", "Body", "End"]
    assert driven.head.status == status
    assert driven.object["error"]
    assert ("signin_url" in driven.object) == (status == 401)


def test_error_takes_the_place_of_the_first_chunk(drive: Any) -> None:
    """The model loads and evaluates, and then there is a 500 instead of a stream."""
    driven = drive().chat("fake:error").run()
    assert kinds(driven) == ["Sleep", "Sleep", "Head", "Body", "End"]
    assert driven.head == Head(500, "application/json", len(driven.body))


def test_error_midstream_ends_with_an_error_line(drive: Any) -> None:
    """The error is a line of the stream; neither done nor anything else follows."""
    driven = drive(fault_after_chunks=2).chat("fake:error-midstream").run()
    assert driven.head.status == 200
    assert [set(line) for line in driven.lines[2:]] == [{"error"}]
    assert len(driven.lines) == 3


@pytest.mark.parametrize(
    ("mode", "last"), [("cut", End), ("crash", Drop), ("hang-midstream", Hang)]
)
def test_a_stream_breaks_off_after_some_chunks(drive: Any, mode: str, last: type) -> None:
    """Some chunks, none of them done, and then an EOF, a broken connection, or nothing."""
    driven = drive(fault_after_chunks=2).chat(f"fake:{mode}").run()
    assert [line["done"] for line in driven.lines] == [False, False]
    assert isinstance(driven.steps[-1], last)


def test_a_fault_later_than_the_last_chunk_still_comes_before_done(drive: Any) -> None:
    """However short the answer is, a faulty one is never complete."""
    driven = drive(fault_after_chunks=99, chunks=2).chat("fake:cut").run()
    assert [line["done"] for line in driven.lines] == [False, False]


def test_a_cut_before_the_first_chunk_is_an_empty_stream(drive: Any) -> None:
    """The headers still come, and then EOF."""
    driven = drive(fault_after_chunks=0).chat("fake:cut").run()
    assert driven.head == Head(200, "application/x-ndjson")
    assert driven.segments == []


def test_hang_before_headers_holds_its_slot_in_silence(drive: Any) -> None:
    """Nothing is sent, and the slot is taken for as long as the client stays."""
    driver = drive()
    driven = driver.chat("fake:hang-before-headers").run()
    assert (driven.head, driver.fake.slots_taken("fake:hang-before-headers")) == (None, 1)
    driven.leave()
    assert driver.fake.slots_taken("fake:hang-before-headers") == 0


def test_pause_goes_on_after_a_legal_silence(drive: Any) -> None:
    """There is one long silence between two chunks, and the answer is complete all the same."""
    driven = drive(fault_after_chunks=2, chunks=4, pause_s=60.0).chat("fake:pause").run()
    assert driven.steps.count(Sleep(60.0)) == 1
    assert len(driven.lines) == 5


def test_slow_gives_a_long_answer_slowly(drive: Any) -> None:
    """Mode `slow` has its own count of chunks and its own pace."""
    driven = drive(slow_chunks=7, slow_chunk_s=2.0).chat("fake:slow").run()
    assert len(driven.lines) == 8
    assert driven.steps.count(Sleep(2.0)) == 6


def test_late_notice_is_deaf_during_prompt_evaluation_only(drive: Any) -> None:
    """ollama#11889: one sleep tells the front not to look for a disconnect."""
    driven = drive(late_s=4.0).chat("fake:late-notice").run()
    sleeps = [step for step in driven.steps if isinstance(step, Sleep)]
    assert [step for step in sleeps if step.deaf] == [Sleep(4.0, deaf=True)]
    assert len(sleeps) > 1


def test_unicode_is_cut_within_characters_and_within_lines(drive: Any) -> None:
    """Segments end in the midst of characters and hold line ends; joined, all is well."""
    driven = drive(chunks=12).chat("fake:unicode").run()
    text = content(driven)
    assert all(piece in text for piece in ("\u0085", "\u2028", "\u2029", "日本語", "🎉"))
    assert "\u2028".encode() in driven.body
    long_characters = sum(len(character.encode()) > 1 for character in text)
    assert sum(segment[-1] >= 0xC0 for segment in driven.segments) == long_characters
    assert any(b"\n" in segment[:-1] for segment in driven.segments), "no segment held a line end"


def test_one_segment_holds_all_chunks(drive: Any) -> None:
    """All lines of the answer arrive in one piece, behind the headers."""
    driven = drive(chunks=5).chat("fake:one-segment").run()
    assert len(driven.segments) == 1
    assert len(driven.lines) == 6


def test_zeros_are_left_out_of_the_metrics(drive: Any) -> None:
    """The last chunk has neither counts nor durations, and is the last all the same."""
    last = drive().chat("fake:zeros").run().lines[-1]
    assert last.keys() == {"model", "created_at", "message", "done", "done_reason"}


def test_empty_answers_with_done_alone(drive: Any) -> None:
    """The first chunk is the last."""
    assert [line["done"] for line in drive().chat("fake:empty").run().lines] == [True]


@pytest.mark.parametrize(("think", "thoughts"), [(None, 2), (True, 2), ("low", 2), (False, 0)])
def test_thinking_comes_first_unless_refused(drive: Any, think: Any, thoughts: int) -> None:
    """A model that can think does so unless `think` is false."""
    driven = drive(thinking_chunks=2, chunks=3).chat("fake:thinking", think=think).run()
    said = ["thinking" in line["message"] for line in driven.lines[:-1]]
    assert said == [True] * thoughts + [False] * 3


def test_tools_are_called_with_an_object(drive: Any) -> None:
    """The arguments of a tool call are an object, not text; content is there and empty."""
    tool = {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"properties": {"query": {}}}},
    }
    driven = drive().chat("fake:tools", "blue sky", tools=[tool]).run()
    assert driven.lines[0]["message"] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_00000001",
                "function": {"index": 0, "name": "look_up", "arguments": {"query": "blue sky"}},
            }
        ],
    }
    assert driven.lines[-1]["done"]


def test_a_model_idle_beyond_its_keep_alive_is_unloaded(drive: Any) -> None:
    """After the keep-alive time /api/ps no longer lists the model, and it loads again."""
    driver = drive()
    driver.chat("llama3.2", keep_alive="1m").run()
    driver.now_ns += 59_000_000_000
    assert driver.fake.state("llama3.2").loaded
    driver.now_ns += 1_000_000_000
    assert driver.get("/api/ps").run().object == {"models": []}
    driver.chat("llama3.2", keep_alive=-1).run()
    driver.now_ns += 10**18
    assert driver.fake.state("llama3.2").loaded
    assert driver.fake.state("llama3.2").loads_started == 2


def test_keep_alive_zero_unloads_after_the_answer(drive: Any) -> None:
    """With keep_alive 0 the model is gone as soon as nobody uses it."""
    driver = drive()
    driver.chat("llama3.2", keep_alive=0).run()
    assert not driver.fake.state("llama3.2").loaded


def test_an_unload_waits_for_the_calls_under_way(drive: Any) -> None:
    """Unloading takes nothing from a live call; the model goes when it ends."""
    driver = drive()
    live = driver.chat("llama3.2").run_until(Body)
    driver.fake.reset("llama3.2")
    assert driver.fake.state("llama3.2").loaded
    assert live.run().lines[-1]["done"]
    assert not driver.fake.state("llama3.2").loaded


def test_an_instant_profile_has_no_step_that_waits(drive: Any) -> None:
    """No latency is no step, so that a search has nothing to explore there."""
    assert "Sleep" not in kinds(drive(profile_named("instant")).chat("llama3.2").run())


def test_calls_are_recorded_up_to_a_bound(drive: Any) -> None:
    """The record keeps the last calls, and numbers tell how many there were."""
    driver = drive(calls_kept=2)
    for prompt in ("one", "two", "three"):
        driver.chat("llama3.2", prompt).run()
    assert [(call.number, call.prompt) for call in driver.fake.calls] == [(2, "two"), (3, "three")]
    call = driver.fake.calls[-1]
    assert call.started_ns == call.slot_ns < call.ended_ns
    assert (call.model, call.mode, call.chunks) == ("llama3.2", "normal", 41)


def test_ps_lists_the_model_that_stays_longest_first(drive: Any) -> None:
    """Only loaded models are listed, by the time at which they are to be unloaded."""
    driver = drive()
    driver.chat("fake:normal", keep_alive="1m").run()
    driver.chat("fake:cut", keep_alive="2m").run()
    models = driver.get("/api/ps").run().object["models"]
    assert [model["name"] for model in models] == ["fake:cut", "fake:normal"]


def test_one_model_does_not_wait_for_another(drive: Any) -> None:
    """Slots belong to a model: a hung one holds up no other."""
    driver = drive()
    hung = driver.chat("fake:hang-midstream").run()
    assert driver.chat("fake:normal").run().lines[-1]["done"]
    assert driver.fake.active_calls == (driver.fake.calls[0],)
    hung.leave()


def test_the_profile_says_how_its_plain_models_behave(drive: Any) -> None:
    """The mode of the profile is that of every model it lists."""
    driver = drive(mode="cut", models=("mine",))
    assert not driver.chat("mine").run().lines[-1]["done"]
    assert driver.chat("llama3.2").run().head.status == 404


def test_profiles_and_modes_are_found_by_name() -> None:
    """An unknown name is answered with the names there are; bad values name the field."""
    assert profile_named("normal") is PROFILES["normal"]
    with pytest.raises(ValueError, match="'fast'; there are: instant, normal"):
        profile_named("fast")
    with pytest.raises(ValueError, match="'quick'; there are: normal, slow"):
        Profile(mode="quick")
    with pytest.raises(ValueError, match="chunk_s must be at least 0, not -1"):
        Profile(chunk_s=-1)
    with pytest.raises(ValueError, match="num_parallel must be at least 1"):
        Profile(num_parallel=0)


def test_chunks_of_one_stream_are_stamped_in_order(drive: Any) -> None:
    """`created_at` is RFC 3339 with nanoseconds and Z, and never goes back."""
    stamps = [line["created_at"] for line in drive().chat("llama3.2").run().lines]
    assert all(len(stamp) == 30 and stamp.endswith("Z") for stamp in stamps)
    assert all(before <= after for before, after in pairwise(stamps))
