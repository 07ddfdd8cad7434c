"""Slots: first come, first served, and nothing is lost when a waiter leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.fake_ollama.slots import Slots, Waiter


def test_a_free_slot_is_granted_at_once() -> None:
    """A call that asks while a slot is free has it when `ask` returns."""
    slots = Slots(2)
    assert [slots.ask().granted for _ in range(3)] == [True, True, False]
    assert (slots.taken, slots.waiting) == (2, 1)


def test_waiters_are_served_in_the_order_in_which_they_asked() -> None:
    """A slot given back goes to the one that has waited longest, whose callback is called."""
    slots = Slots(1)
    holder, first, second = slots.ask(), slots.ask(), slots.ask()
    told: list[str] = []
    second.call_when_granted(lambda: told.append("second"))
    first.call_when_granted(lambda: told.append("first"))
    slots.give_back(holder)
    assert told == ["first"]
    slots.give_back(first)
    assert told == ["first", "second"]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    """Nobody waits for a grant that has already happened."""
    told: list[str] = []
    Slots(1).ask().call_when_granted(lambda: told.append("granted"))
    assert told == ["granted"]


def test_a_waiter_that_leaves_the_queue_is_passed_over() -> None:
    """A cancelled waiter is never granted a slot, and takes none from those behind it."""
    slots = Slots(1)
    holder, leaver, next_one = slots.ask(), slots.ask(), slots.ask()
    slots.give_back(leaver)
    slots.give_back(holder)
    assert (leaver.granted, next_one.granted) == (False, True)


def test_a_slot_granted_to_a_waiter_that_has_left_is_passed_on() -> None:
    """Granted, then cancelled before it ran: the slot goes to the next in the queue."""
    slots = Slots(1)
    holder, leaver, next_one = slots.ask(), slots.ask(), slots.ask()
    slots.give_back(holder)
    assert leaver.granted
    slots.give_back(leaver)
    assert next_one.granted
    assert slots.taken == 1


def test_giving_back_twice_frees_one_slot() -> None:
    """A second give_back takes nobody else's slot away."""
    slots = Slots(1)
    holder, second, third = slots.ask(), slots.ask(), slots.ask()
    slots.give_back(holder)
    slots.give_back(holder)
    assert (second.granted, third.granted, slots.taken) == (True, False, 1)


def test_there_is_at_least_one_slot() -> None:
    """No slot at all would make every request wait for ever, silently."""
    with pytest.raises(ValueError, match="at least one slot"):
        Slots(0)


@given(st.integers(1, 3), st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=40))
def test_no_sequence_of_asks_and_leaves_loses_a_slot(count: int, moves: list[int | None]) -> None:
    """After any moves, slots are taken iff asked for, and the queue waits only for full slots."""
    slots = Slots(count)
    present: list[Waiter] = []
    for move in moves:
        if move is None:
            present.append(slots.ask())
        elif present:
            slots.give_back(present.pop(move % len(present)))
        assert slots.taken == min(count, len(present))
        assert [waiter.granted for waiter in present] == sorted(
            (waiter.granted for waiter in present), reverse=True
        )
        assert slots.waiting == len(present) - slots.taken
