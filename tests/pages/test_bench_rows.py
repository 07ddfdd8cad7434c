"""What a page shows of the bench's own: whose call it is, who is gone, what the store was asked."""

from __future__ import annotations

from functools import cache

from registry import StreamRegistry
from sim import explore
from sim.bench.actors import naming_of
from sim.bench.harness.state_words import words_of_streams
from sim.commands.pages import page_of_counterexample
from sim.kernel.schedule import Bounds
from sim.pages.story import Story, natural_story
from sim.replay import subject_of
from sim.schedulers import DepartureBounded


@cache
def paused() -> Story:
    """A worker that is paused while the answer to its renewal is on its way."""
    with subject_of("cluster:pause:mutant-lease_is_dated_from_the_reply") as subject:
        found = explore(subject, strategy=DepartureBounded(1), max_executions=500).counterexample
    assert found is not None
    return page_of_counterexample(found).stories[0].story


def test_an_answer_of_the_store_that_is_read_late_has_a_row() -> None:
    """With when it was asked for, and when the store gave it; it is the last thing before it."""
    story = paused()
    (row,) = [each for each in story.steps if each.text.startswith("reads only now")]
    assert row.actor == "v/1"
    assert not row.is_minor
    assert "as it asked to renew its lease at 2.0" in row.text
    assert "the store answered at 2.0" in row.text
    assert f"{row.at:.3f}" == f"{story.at:.3f}"
    # The sum that production does, and the mutant does not.
    asked_s = float(row.text.partition("its lease at ")[2].partition(" s")[0])
    assert row.text.endswith(f": ok, for 3 s from when it asked, until {asked_s + 3:.3f} s")


def test_who_is_let_in_has_a_lease_of_so_long() -> None:
    """And the row says whose was over, and since when."""
    rows = [each for each in paused().steps if each.actor == "store" and " in, with" in each.text]
    assert [each.is_minor for each in rows] == [False, False]
    first, second = (each.text for each in rows)
    assert first == "lets v/1 in, with a lease of 3 s"
    assert second.startswith("lets w/2 in, with a lease of 3 s; v/1's was over at 5.0")
    assert second.endswith("and 0.3 s of margin are")


def test_a_lease_that_goes_on_is_not_said_to_be_over() -> None:
    """Who outlasts its grace makes room before its lease has ended."""
    with subject_of("cluster:too_slow_cleanup:production") as subject:
        story = natural_story(subject.program, Bounds())
    assert story is not None
    let_in = [each for each in story.steps if each.text.startswith("lets w/2 in")]
    assert [each.text for each in let_in] == ["lets w/2 in, with a lease of 3 s"]
    assert let_in[0].at < 3
    gates = [each.moment.values.get(("", "v/1"), "") for each in story.steps]
    assert any(gates)
    assert not any("to the store" in each for each in gates)


def test_a_gate_that_is_open_has_both_ends_of_its_lease() -> None:
    """The worker's, and the one by which the store has given the session to another since."""
    story = paused()
    (last,) = [each for each in story.steps if each.is_violation]
    gates = {name: last.moment.values["", name] for name in ("v/1", "w/2")}
    (let_in,) = [each.text for each in story.steps if each.text.startswith("lets w/2 in")]
    over = let_in.partition("v/1's was over at ")[2].partition(" s")[0]
    assert float(over) < last.at
    assert gates["v/1"].endswith(f" s, to the store until {over} s")
    assert "to the store" not in gates["w/2"]


def test_a_call_is_called_by_whose_it_is() -> None:
    """By the task that asks for it; one that nobody is known to have made has a number."""
    name = naming_of("stack:second_prompt.async:production")
    asks = "127.0.0.1:40001 asks 127.0.0.1:11434 for a connection"
    assert name(asks, "agent-t2") == "agent-t2's call asks Ollama for a connection"
    assert name("5 bytes from 127.0.0.1:40001", "") == "5 bytes from agent-t2's call"
    again = "127.0.0.1:40002 asks 127.0.0.1:11434 for a connection"
    assert name(again, "agent-t2") == "agent-t2's call 2 asks Ollama for a connection"
    other = "127.0.0.1:40003 asks 127.0.0.1:8000 for a connection"
    assert name(other, "program") == "client 1 asks the server for a connection"


def test_a_stream_that_is_over_is_said_to_be_gone() -> None:
    """It was registered, and the registry has it no more; nobody has to guess it."""
    told = words_of_streams(StreamRegistry().snapshot(), {"t1": "p1"}, registered=["t1"])
    assert told == {"p1": "gone: it has ended, to the registry"}
