"""`onestream prove`: what it rests on holds, and what is broken falls by it."""

from __future__ import annotations

import json

import pytest

from registry.protocol import (
    PERFORM,
    TABLE,
    Action,
    Cancel,
    Effects,
    Register,
    Situation,
    Step,
    StreamProtocol,
)
from sim.bench.proving import lease_unbounded, unbounded
from sim.bench.proving.conformance import (
    SAME_ROW,
    SAME_STATE,
    conformance_table,
    sentences_that_differ,
)
from sim.bench.proving.induction import induct
from sim.bench.proving.lease_states import CONTRACT, lease_table
from sim.bench.proving.lease_states import SMALL as LEASES
from sim.bench.proving.locality import ORDER, READS, locality_table
from sim.bench.proving.protocol_obligations import DOES, SAYS
from sim.bench.proving.protocol_states import SMALL, WHOLE, protocol_table
from sim.bench.subjects.mutants import registry as mutants
from sim.bench.subjects.mutants.base import Break
from sim.cli import main
from sim.exploration.verdict import Verdict

pytestmark = pytest.mark.once

Patch = pytest.MonkeyPatch


def test_the_invariants_are_inductive() -> None:
    """Every operation on every state of the small cut-off keeps them; all rows are taken."""
    found = induct(protocol_table(SMALL))
    assert found.verdict is Verdict.PROVED, found


@pytest.mark.thorough
def test_the_invariants_are_inductive_up_to_the_whole_cut_off() -> None:
    """The same beside other sessions of each kind, at and away from the limit of the process."""
    found = induct(protocol_table(WHOLE))
    assert found.verdict is Verdict.PROVED, found


def test_an_operation_reads_its_own_session_and_numbers_by_their_order() -> None:
    """So that no more sessions, and no other numbers, than those of the cut-off show anything."""
    found = induct(locality_table())
    assert found.verdict is Verdict.PROVED, found


def test_the_model_is_the_code() -> None:
    """Each operation meets the same situation in both, and leads to the same state."""
    found = induct(conformance_table())
    assert found.verdict is Verdict.PROVED, found


def test_the_sentences_of_the_model_are_the_predicates_of_the_code() -> None:
    """They agree about good states and bad ones, and about what an operation may lead to."""
    assert sentences_that_differ(every=15) == []


@pytest.mark.thorough
def test_the_rows_keep_the_invariant_for_any_size() -> None:
    """By z3: of any number of streams and sessions, with any limits."""
    found = unbounded.prove_any_size()
    assert found.verdict is Verdict.PROVED, found.unproved
    assert set(found.follows) == set(unbounded.INVARIANTS)


def test_no_two_gates_are_open_for_any_number_of_workers() -> None:
    """By z3, of workers whose clocks drift by at most the margin."""
    found = lease_unbounded.prove_one_gate()
    assert found.verdict is Verdict.PROVED, found.unproved


# ---- mutants ---------------------------------------------------------------------------------

TABLE_MUTANTS: dict[Break, str] = {
    mutants.second_is_let_in_beside_the_first: "S1 one_active",
    mutants.newer_prompt_stops_nobody: "S4 newest_wins",
    mutants.overtaken_is_not_rejected: "S7 bounded",
    mutants.older_keeps_the_place_it_waits_in: "S7 bounded",
    mutants.grace_starts_anew: "L1 admission",
    mutants.withdraw_keeps_the_entry: SAYS,
    mutants.withdraw_takes_the_place_and_not_the_stream: DOES,
    mutants.detached_is_never_uncounted: "those that are detached are counted",
    mutants.end_of_a_detached_stream_ends_its_successor: "those that are detached are counted",
    mutants.limit_of_detached_streams_is_not_kept: "S7 bounded",
    mutants.overdue_leaves_a_register_waiting: "L1 admission",
    mutants.expired_grace_lets_nobody_in: "L1 admission",
    mutants.cancel_of_a_detached_stream_stops_its_successor: "S8 identity",
    mutants.fencing_token_is_reused: "S5 fencing",
    mutants.enqueued_stops_the_holder: "L1 admission",
    mutants.enqueued_is_let_in_beside_the_holder: "S4 newest_wins",
    mutants.enqueued_waits_for_ever: "L1 admission",
    mutants.youngest_of_the_queue_is_next: "S4 oldest_next",
    mutants.queue_has_no_bound: "S7 bounded",
    mutants.interrupt_leaves_the_queue_before_it: "S4 newest_wins",
    mutants.rejected_waits: "S4 reject_never_waits",
    mutants.cancel_in_the_queue_hits_the_youngest: "S8 identity",
    mutants.expired_wait_goes_on: DOES,
    mutants.close_leaves_the_queue_waiting: DOES,
}


@pytest.mark.parametrize("mutant", TABLE_MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mutant_of_the_table_falls_by_induction(mutant: Break, monkeypatch: Patch) -> None:
    """With one safeguard lost some step from a good state leads to a bad one."""
    mutant(monkeypatch)
    assert induct(protocol_table(SMALL)).violated == TABLE_MUTANTS[mutant]


def test_every_mutant_that_breaks_the_table_is_named_here(monkeypatch: Patch) -> None:
    """Those that are not leave the table, and the code of its actions, as they are."""
    others = {breaks for breaks, _, _ in mutants.KILLED} - set(TABLE_MUTANTS)
    before = dict(TABLE), dict(PERFORM), dict(vars(StreamProtocol))
    for breaks in others:
        breaks(monkeypatch)
    assert (dict(TABLE), dict(PERFORM), dict(vars(StreamProtocol))) == before


@pytest.mark.parametrize(
    "mutant",
    [mutants.newer_prompt_stops_nobody, mutants.overdue_leaves_a_register_waiting],
    ids=lambda mutant: mutant.__name__,
)
@pytest.mark.thorough
def test_a_row_that_is_broken_falls_for_any_size(mutant: Break, monkeypatch: Patch) -> None:
    """The model is read from the table, so that z3 refutes a row that is another one."""
    mutant(monkeypatch)
    assert unbounded.prove_any_size().verdict is Verdict.REFUTED


def code_does_other_than_its_row(patch: Patch) -> None:
    admit = PERFORM[Action.ADMIT_NEW]

    def twice(protocol: StreamProtocol, step: Step) -> Effects:
        protocol._fencing_token_last += 1
        return admit(protocol, step)

    patch.setitem(PERFORM, Action.ADMIT_NEW, twice)


def code_meets_another_situation(patch: Patch) -> None:
    situation_of = StreamProtocol._situation_of_register

    def busy(protocol: StreamProtocol, operation: Register) -> Situation:
        found = situation_of(protocol, operation)
        return Situation.SESSION_BUSY if found is Situation.QUEUE_OPEN else found

    patch.setattr(StreamProtocol, "_situation_of_register", busy)


@pytest.mark.parametrize(
    ("mutant", "violated"),
    [(code_does_other_than_its_row, SAME_STATE), (code_meets_another_situation, SAME_ROW)],
)
def test_code_that_is_not_the_model_falls(mutant: Break, violated: str, monkeypatch: Patch) -> None:
    """These keep every invariant, and are found by the comparison."""
    mutant(monkeypatch)
    assert induct(protocol_table(SMALL)).violated is None
    assert induct(conformance_table()).violated == violated


def looks_at_all_streams(patch: Patch) -> None:
    situation_of = StreamProtocol.situation_of

    def counting(protocol: StreamProtocol, operation: object) -> Situation:
        assert all(protocol._streams.values())
        return situation_of(protocol, operation)  # type: ignore[arg-type]

    patch.setattr(StreamProtocol, "situation_of", counting)


def asks_for_a_number(patch: Patch) -> None:
    stop = PERFORM[Action.STOP]

    def stop_the_first(protocol: StreamProtocol, step: Step) -> Effects:
        assert isinstance(step.operation, Cancel) or step.stream is not None
        return () if protocol._serial_last > 500 else stop(protocol, step)

    patch.setitem(PERFORM, Action.STOP, stop_the_first)


@pytest.mark.parametrize(
    ("mutant", "violated"), [(looks_at_all_streams, READS), (asks_for_a_number, ORDER)]
)
def test_what_reads_more_than_its_own_falls(
    mutant: Break, violated: str, monkeypatch: Patch
) -> None:
    """The cut-off would not be enough for these, and it is said."""
    mutant(monkeypatch)
    assert induct(locality_table()).violated == violated


def test_a_lease_that_breaks_what_the_proof_rests_on_falls(monkeypatch: Patch) -> None:
    """Where each step is taken to break the contract, the first one is named by it."""
    monkeypatch.setattr("sim.bench.proving.lease_states.breaks_contract", lambda step: True)
    assert induct(lease_table(LEASES)).violated == CONTRACT


# ---- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["any-size", "leases-any-size"])
def test_the_command_without_z3_says_what_it_has_not_proved(
    part: str, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named with what to install, and not concluded."""
    monkeypatch.setattr("sim.bench.proving.prove.has_z3", lambda: False)
    code = main(["prove", "--quick", "--part", part, "--json"])
    assert code == Verdict.INCONCLUSIVE.exit_code
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "inconclusive"
    assert "extra `prove`" in found["parts"][0]["how"]


def test_the_command_says_what_is_proved_and_to_which_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the states, steps and rows that were taken."""
    assert main(["prove", "--quick", "--part", "protocol"]) == Verdict.PROVED.exit_code
    out = capsys.readouterr().out
    assert out.startswith("proved    protocol: each operation of production's `apply` keeps")
    assert f"{len(TABLE)} rows taken" in out
    assert "for one whole session" in out


def test_the_command_names_what_is_violated(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken table is refuted, with the state and the operation."""
    mutants.rejected_waits(monkeypatch)
    assert main(["prove", "--quick", "--part", "protocol"]) == Verdict.REFUTED.exit_code
    out = capsys.readouterr().out
    assert "VIOLATED: S4 reject_never_waits" in out
    assert "Register(" in out


def test_a_part_that_is_not_there_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The parts that there are stand in the error."""
    assert main(["prove", "--part", "protocoll"]) == Verdict.ERROR.exit_code
    assert "there are protocol, cut-off, model" in capsys.readouterr().err
