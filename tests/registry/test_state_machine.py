"""The state machine finds nothing in production, and refutes what is broken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from registry import StreamRegistry
from sim.bench.harness.observed_protocol import ROWS
from sim.bench.harness.refinement import REFINES
from sim.bench.subjects import registry_class
from sim.bench.subjects.mutants import registry as mutants
from sim.bench.subjects.mutants.base import Break
from tests.registry.state_machine import Machine

pytestmark = pytest.mark.once

TestProduction = Machine.TestCase
TestProduction.settings = settings(stateful_step_count=40)
TestProduction.__doc__ = "No command, in no order and under no schedule, violates a property."


def refutation_of(registry_class: type[Any], story: str) -> str:
    """What the machine raises against a registry, in stories of one kind."""
    fields = {"registry_class": registry_class, "stories": (story,)}
    machine = type("MachineForSuspect", (Machine,), fields)
    # Neither shrunk nor explained: it is enough that it is found.
    found = settings(
        max_examples=400,
        stateful_step_count=40,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=found)
    return str(caught.value)


@pytest.mark.parametrize("name", ["original", "quick_fix"])
def test_the_machine_refutes_the_published_registries(name: str) -> None:
    """The state machine finds two active streams of one session in both published registries."""
    assert "S1 one_active" in refutation_of(registry_class(name), "interrupt")


@pytest.mark.thorough
def test_the_machine_takes_every_row_that_its_rules_can_reach() -> None:
    """The machine is no mere walk on the spot: it takes all rows but that of a known trace id."""
    rows: set[str] = set()

    class Counting(Machine):
        def teardown(self) -> None:
            super().teardown()
            rows.update(self.world.labels)

    # Hypothesis draws anew where any file has changed: 200 examples miss a row in one of two draws.
    run_state_machine_as_test(Counting, settings=settings(max_examples=800, stateful_step_count=50))
    # These take two commands within one step, a session at its limit, or two closes; that they
    # are taken is demanded of the scenarios of `check`.
    rare = {
        row
        for row in ROWS
        if any(word in row for word in ("withdraw", "overdue", "closed", "waitexpired"))
    }
    assert ROWS - rows - rare == {"row register: trace id known"}
    assert "row graceexpired: stopping, at the limit of detached streams" in rows
    assert "row withdraw: waiting" in rows


NO_ROW = "every operation of the shell has a row in the table"

MUTANTS: dict[Break, str] = {
    mutants.second_is_let_in_beside_the_first: "S1 one_active",
    mutants.overtaken_is_not_rejected: "S7 bounded",
    mutants.older_keeps_the_place_it_waits_in: "S7 bounded",
    mutants.grace_starts_anew: "L1 admission",
    mutants.withdraw_keeps_the_entry: REFINES,
    mutants.detached_is_never_uncounted: "L3 no_leak",
    mutants.end_of_a_detached_stream_ends_its_successor: "L3 no_leak",
    mutants.limit_of_detached_streams_is_not_kept: "S7 bounded",
    mutants.overdue_leaves_a_register_waiting: "L1 admission",
    mutants.cancel_of_a_detached_stream_stops_its_successor: "S8 identity",
    mutants.fencing_token_is_reused: "S5 fencing",
    mutants.gate_is_never_shut: "S2 only_active_emits",
    mutants.enqueued_stops_the_holder: "S8 identity",
    mutants.youngest_of_the_queue_is_next: "S4 oldest_next",
    mutants.queue_has_no_bound: "S7 bounded",
    mutants.interrupt_leaves_the_queue_before_it: "S4 newest_wins",
    mutants.rejected_waits: "S4 reject_never_waits",
    mutants.stop_signal_is_never_cleared: "L3 no_leak",
    # It fires before anybody looks for what was left.
    mutants.grace_timer_outlives_its_stream: "no callback raises",
    mutants.withdrawn_by_name_and_not_by_identity: NO_ROW,
}

# They take as long as all the others together.
FALLS_LATE = {
    mutants.withdrawn_by_name_and_not_by_identity,
    mutants.withdraw_keeps_the_entry,
    mutants.cancel_of_a_detached_stream_stops_its_successor,
}

# Of the mutants that break a queue; the rest falls where every prompt interrupts.
STORIES: dict[Break, str] = {
    mutants.enqueued_stops_the_holder: "all",
    mutants.youngest_of_the_queue_is_next: "enqueue",
    mutants.queue_has_no_bound: "enqueue",
    mutants.interrupt_leaves_the_queue_before_it: "all",
    mutants.rejected_waits: "all",
}


@pytest.mark.parametrize(
    ("mutant", "violated"),
    [
        pytest.param(
            *pair, id=pair[0].__name__, marks=[pytest.mark.thorough] * (pair[0] in FALLS_LATE)
        )
        for pair in MUTANTS.items()
    ],
)
def test_the_machine_kills_the_mutant(
    mutant: Break, violated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one safeguard lost, the state machine finds a violation of the property it guards."""
    mutant(monkeypatch)
    assert violated in refutation_of(StreamRegistry, STORIES.get(mutant, "interrupt"))
